"""DeblurGAN (Kupyn et al., CVPR 2018): generators and critics."""
