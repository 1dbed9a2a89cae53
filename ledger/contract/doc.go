// Package contract runs contracts: WebAssembly programs that members signed, on the state of
// the ledger. A call is a pure function of code, method, input, caller, time, seed and state; it
// reads its contract's own keys, and what it writes comes back as data. The same call on the
// same state gives the same bytes on every machine of a build (meter), so that anybody may
// execute it again and hold the executor to it.
//
// It trusts wazero to run WebAssembly as its specification says, and neither code nor input:
// memory, depth, gas, output, writes and events are bounded, and what a call leaves behind in
// its instance is undone.
package contract
