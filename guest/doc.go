// Package guest is what a contract in Go is written with: it asks the node that executes the
// contract for input, state, caller and time, and says what the call comes to. It works in
// WebAssembly alone; build a contract by
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags=-s -o contract.wasm .
//
// A method is a function without parameters and results:
//
//	//go:wasmexport greet
//	func greet() { guest.Output([]byte("hello " + guest.Who().Name)) }
//
// A call sees nothing of calls before it but what they put into the state: variables are as
// they were when the contract had started. There are no files, no network, no other time than
// the domain's, and no random values but those of the call, which stand in its entry. What a
// method refuses (Refuse) changes nothing. docs/spec/contract.md has the functions that this
// package calls.
package guest
