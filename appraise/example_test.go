package appraise_test

import (
	"fmt"
	"testing"

	"github.com/keystead/keystead/appraise"
)

// A verifier judges the evidence of a machine that it knows by its attestation key
// alone: what was loaded is proven, but not where the key lives. Then the same
// evidence is sent again.
func Example() {
	in, _ := small(new(testing.T)) // bundle, question, key, reference set, code set and policy
	v := appraise.Explain(in, func(f appraise.File) { fmt.Println(f.Entry, f.Status) })
	fmt.Println(v.Allowed(), v.Assurance(), v.Claims().Key.Binding)

	in.Expect.Nonce = []byte("the next question")
	for _, f := range appraise.Appraise(in).Findings() {
		fmt.Println(f.Reason)
	}
	// Output:
	// 1 boot-aggregate
	// 2 named
	// 3 named
	// 4 named
	// true test named
	// bundle-replayed
}
