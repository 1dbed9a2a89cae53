package node

import (
	"context"
	"fmt"
	"time"

	"github.com/keystead/keystead"
)

// endPatience is how long a start that was told to end may take to.
const endPatience = 5 * time.Second

// Start starts the node of a directory that [NewIdentity] and [Found] prepared. It
// returns once the node has its place among the others, which for one that joins
// takes a majority of them; ctx bounds that, whatever hangs: a disk, a TPM, an engine. A
// start that does not end then is left behind, and holds what it has opened until the
// process ends, as it should.
func Start(ctx context.Context, cfg Config, opts Options) (*Node, error) {
	type started struct {
		node *Node
		err  error
	}
	out := make(chan started, 1)
	go func() {
		n, err := start(ctx, cfg, opts)
		out <- started{n, err}
	}()
	select {
	case s := <-out:
		return s.node, s.err
	case <-ctx.Done():
	}
	select {
	case s := <-out:
		return s.node, s.err
	case <-time.After(endPatience):
	}
	go func() {
		if s := <-out; s.err == nil {
			_ = s.node.Close() // nobody waits for it
		}
	}()
	return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "start of the node in " + cfg.Dir,
		Want: fmt.Sprintf("an end within %v of being told to", endPatience), Got: "none: something that it opens does not answer (disk, TPM)"})
}
