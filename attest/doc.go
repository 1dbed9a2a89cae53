// Package attest makes connections on which both sides have shown what they run.
//
// [Client] and [Server] run TLS 1.3 over a connection that they are given, and then
// exchange evidence that is bound to this one connection: its quote covers keying
// material exported from TLS, the role of who made it, the peer's nonce and both
// sides' certificates (docs/spec/attest.md). So evidence that was relayed, reflected
// or kept from an earlier connection is refused, each by name. Until both sides said
// yes there is no [Conn], and so no application data.
//
// What is trusted: crypto/tls, and the caller's [Verifier]. A Verifier concludes by a
// verdict of package appraise, which is held here against the binding of the
// connection: one that judged something else admits nobody. Certificates are wrapping
// only; keys in TLS are worth what the evidence beside them is worth.
//
// Whoever connects learns the TPM's endorsement certificate and has the TPM make a
// quote, before it is known itself. A [Listener] bounds how many do so at a time.
package attest
