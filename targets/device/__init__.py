"""Scripts that travel to the device inside a bundle. They import nothing of ours and keep to the device's Python."""
