// Package contractnode is a node's side of contracts: it judges the code and callers that members
// take in, executes calls once, in the order in which it takes them, and has the ledger take
// what they came to (docs/spec/contract.md).
//
// It believes a caller's signature, and of who does not sign nothing. A call's result is this
// node's own word, which it signs: whoever executes the call again can hold it to that.
package contractnode
