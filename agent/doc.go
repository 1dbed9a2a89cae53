// Package agent is a host's side of a domain: it shows evidence to the nodes, holds
// the lease that they give, and gives applications of the machine what the lease
// obtains.
//
// [Core] decides, without clock or I/O: when to show evidence, whether the lease still
// stands, what to do when it does not. An [Agent] runs it: TPM, connections to all
// nodes, SVID files, and the local socket (docs/spec/application.md).
//
// A lease is counted as a duration from before its nonce was asked for, on a clock that
// goes on while the machine sleeps. When in doubt the agent closes: a refusal ends the
// lease at once, silence when its time is over, and then nothing is given out and the
// SVID files are gone. Keys are held in memory only.
//
// What is trusted: the kernel and root of this machine, as far as evidence can not say
// otherwise; of the domain its genesis digest. A node is believed for what it answers
// once its own evidence passed, and its attestation key is the roster's.
package agent
