// Package meter rewrites a WebAssembly module so that a call of it is bounded, gives the same
// result on every machine, and leaves nothing behind: gas is taken before code runs, calls are
// held to a depth, NaNs have one form, and what a call may change can be restored. What could
// not be restored, or is not deterministic, is refused (contract-unfit).
//
// It is pure, and trusts nothing in the module. It does not validate: whoever runs the result
// does, and the rewriting gives no meaning to an index that the module itself does not have.
//
// Sources: WebAssembly Core Specification 2.0, chapter 5 (binary format).
package meter
