"""Classes that the pack derives from."""


class CLIP:
    pass


class VAE:
    pass
