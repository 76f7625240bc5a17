"""Classes that the pack derives from."""


class ModelPatcher:
    pass
