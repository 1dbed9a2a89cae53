// Package app is the pure core of application authentication: what a signed program
// carries in itself, and what a host states about a program that runs.
//
// A signed program is an ELF file with a section .note.keystead that nothing loads: its
// name, two digests, the libraries that it needs, a sub-certificate, and a signature by
// that certificate's key. [Sign] makes it, [Parse] reads it, and [Program.Verify] holds
// it to what was measured and to the roots of the domain ([Roots]). One root has many
// sub-certificates, one for each application. A [Statement] is what the agent of a host
// says about a process of that host to a node, once, as the answer to the node's
// challenge. docs/spec/application.md has the formats.
//
// The package trusts nothing that it reads, and touches nothing: time, randomness, keys
// and files come as arguments. What runs in a process it does not know; collect/process
// measures that.
package app
