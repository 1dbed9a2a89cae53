// Package process holds what is known of a local application: its own report, and the
// facts that an agent measured of it.
//
// A report (docs/spec/application.md) answers a challenge: it names the key that the
// application asks for and the wrapping key that the answer is to be sealed to. It
// proves nothing about who made it. At level peer that comes from the kernel, by the
// connection that the report came over (collect.Peer); [Verify] checks that the report
// answers that connection's challenge, on this boot of this machine.
//
// The package trusts nothing and touches nothing.
package process
