package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/refusal"
)

// TestLastRefusal has nodes that say why they can not answer, until time is over: what
// they said is the error, not that time was over.
func TestLastRefusal(t *testing.T) {
	missing := keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMissing, Where: "objects"})
	for name, tt := range map[string]struct {
		answers []error // those after them take until time is over
		want    keystead.Reason
	}{
		"told":            {[]error{missing}, keystead.ReasonObjectMissing},
		"told after late": {[]error{context.DeadlineExceeded, missing}, keystead.ReasonObjectMissing},
		"told nothing":    {nil, keystead.ReasonTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			c := &Client{nodes: []*node{{}, {}}, opts: Options{Attempt: time.Minute}}
			asked := 0
			err := c.each(ctx, func(ctx context.Context, _ *node) error {
				if asked++; asked <= len(tt.answers) {
					return refusal.Encode(tt.answers[asked-1])
				}
				cancel()
				<-ctx.Done()
				return refusal.Encode(ctx.Err())
			})
			if !errors.Is(err, tt.want) || tt.want != keystead.ReasonTimeout && errors.Is(err, keystead.ReasonTimeout) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}
