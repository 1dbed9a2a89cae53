// Package appnode is a node's side of applications: it challenges the agent of an admitted
// host, holds the statement that comes back to the domain's roots for applications, and seals
// an agreed key to the application, or gives it an SVID (docs/spec/application.md).
//
// It trusts the host's agent for what it says of a process, as far as the host's evidence goes:
// the agent's program is in the measured log, and only the lease's subject key signs statements.
// It trusts nothing that the agent does not sign, and the application itself for nothing.
package appnode
