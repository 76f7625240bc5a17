"""Model folders without a file in them."""


def get_filename_list(_folder):
    return []
