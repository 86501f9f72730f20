"""The evolution strategy itself: noise, members, weights, update. The only library it needs is torch."""
