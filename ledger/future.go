package ledger

import (
	"fmt"

	"github.com/keystead/keystead"
)

// LeafFuture refuses to read from a leaf that a tree of size leaves does not have yet.
func LeafFuture(leaf, size uint64) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeafFuture, Where: "ledger", Want: fmt.Sprintf("at most leaf %d, the next one", size), Got: fmt.Sprintf("leaf %d", leaf)})
}
