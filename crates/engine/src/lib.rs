//! The engine of flyball: one configuration, its parts, and the loop that controls them.
