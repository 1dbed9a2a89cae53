package part

import (
	"fmt"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// undeclared refuses what a part did not declare.
func undeclared(name, what, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonPartUndeclared, Where: "part " + name, Want: what + " that the part declared", Got: got})
}

// MayPropose refuses entries of a kind that the part of that name did not declare.
func (d *Declaration) MayPropose(name string, entry []byte) error {
	kind, _, err := receipt.Split(entry)
	if err == nil && !slices.Contains(d.Proposes, kind) {
		err = undeclared(name, "entries of a kind", kind.String())
	}
	return err
}

// MayWrite refuses a contract that the part of that name did not declare.
func (d *Declaration) MayWrite(name, contract string) error {
	if slices.Contains(d.Contracts, contract) {
		return nil
	}
	return undeclared(name, "a contract", fmt.Sprintf("%.40q", contract))
}

// MayDecide refuses a type of proposal that the part of that name did not declare.
func (d *Declaration) MayDecide(name, kind string) error {
	if slices.ContainsFunc(d.Judges, func(t JudgedType) bool { return t.Type == kind }) {
		return nil
	}
	return undeclared(name, "a type of proposal", fmt.Sprintf("%.40q", kind))
}

// MaySign refuses a signing context that the part of that name did not declare.
func (d *Declaration) MaySign(name, context string) error {
	if slices.Contains(d.Signs, context) {
		return nil
	}
	return undeclared(name, "a signing context", fmt.Sprintf("%.40q", context))
}

// Signed is what a node signs for a part in a context.
func Signed(context string, message []byte) []byte {
	return append([]byte(context+"\n"), message...)
}

// Seen returns the entries of a batch that the part sees.
func (d *Declaration) Seen(entries []Applied) (out []Applied) {
	for _, e := range entries {
		if slices.Contains(d.Sees, e.Kind) {
			out = append(out, e)
		}
	}
	return out
}
