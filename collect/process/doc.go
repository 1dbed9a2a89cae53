// Package process measures a running process of this machine: what its memory holds, not
// what a path leads to. It is how an application is known at level measured.
//
// [Accept] takes the connection of an application and reads from it only what the very
// process that connected sends. [Process.Measure] holds the process's read-only memory to
// the signed file that it runs, and names every other file whose code is in it;
// [Measurement.Again] says, before an answer goes out, that all of it still holds. Nothing
// is cached: each call looks anew.
//
// It trusts the kernel, and root on this machine. It needs Linux 6.9 (pidfds of their
// own, PAGEMAP_SCAN), and to be root in the first namespaces. Attacks that it does not
// see are in docs/adversaries/applications.md: data that is writable, relocated constants
// (RELRO), and whoever may attach a debugger between two looks.
package process
