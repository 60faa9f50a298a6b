//! rtnetlink, nfnetlink and kernel events over blocking sockets.
#![forbid(unsafe_code)]
