// Package practice sets up machines to play with: each has a software TPM of its own,
// into which a recorded boot is replayed, and its logs as files, laid out for the
// commands that collect evidence. The demo, practice domains and tests use it.
//
// It trusts nobody and proves nothing: a software TPM is as good as its owner.
package practice
