"""The pure core: stimuli in, records and effects out. It sees no clock, disk, process, network, log or chance."""
