//! Every byte whose shape Tailscale owns: control JSON, capability versions, Noise, DERP frames.
