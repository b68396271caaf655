"""Masked methods in double precision: what a network says of one image, whatever was made of its pixels."""

import torch

MEAN, STD = 0.4, 0.25


class Slow:
    """One image in double precision: what the network says of anything made of its pixels."""

    def __init__(self, network, scene, image, target, mean=MEAN, std=STD):
        self.network, self.direction = network, scene.targets[target].directions[image, 0].double()
        self.mean, self.std, self.side = mean, std, scene.pixels.shape[3]
        self.x, self.scene, self.image = scene.pixels[image].double() / 255, scene, image

    @torch.no_grad()
    def logits(self, x):
        return self.network(((x - self.mean) / self.std)[None])[0]

    def y(self, x):
        return float(self.direction @ self.logits(x))

    def p(self, x):
        return float(self.direction @ self.logits(x).softmax(0))

    @torch.no_grad()
    def A(self):
        return self.network[:6](((self.x - self.mean) / self.std)[None])[0]
