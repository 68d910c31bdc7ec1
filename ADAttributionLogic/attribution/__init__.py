"""Attribution methods: one file per family, one registry; those that cover are in the room of occlusion."""
