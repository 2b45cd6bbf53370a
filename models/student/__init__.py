"""The student: a MobileNetV3-style U-Net whose every width is data."""
