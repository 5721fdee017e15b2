//! The relay and STUN server; asks an admission trait, knows no tailnet.
