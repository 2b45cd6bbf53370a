"""SRN-DeblurNet (Tao et al., CVPR 2018) in its PyTorch form."""
