// Package segment is an append-only log of opaque bodies in numbered files, through
// pebble's vfs: one write and one sync for a body, files used again once what they
// hold is not needed, and an end that is cut only where a crash can have torn it.
// The format is in docs/spec/log.md.
//
// # What is synced
//
// Every body is written with the offset up to which the log was synced before, so
// damage before that is told from a torn end, for good. For the last synced body
// there is no later one to say so. For it there is the mark, a small file written
// after each sync and not synced itself: a lower bound, whatever of it reached the
// disk. What is torn was never acknowledged, or, if the mark is lost too, in the last
// sync before the power went.
//
// # Trust
//
// It trusts the disk to keep what it synced or to be found out by a checksum. Whoever
// can write the files can forge them.
package segment
