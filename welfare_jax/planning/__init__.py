"""What a run would need of a device, before anything is loaded: memory, arithmetic, time."""
