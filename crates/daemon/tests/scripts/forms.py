"""What versions of libvirt say differently."""


def form(error):
    """The form of an error, as libvirt 9 has it: later versions number what is put there."""
    return error.get_str1().replace("%1$s", "%s")
