"""CrossViT (Chen, Fan, Panda, ICCV 2021): branches of different patch sizes that exchange their CLS tokens."""
