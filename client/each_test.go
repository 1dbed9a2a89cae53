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

// TestWordOfClosedNodes: nodes that say that people have to do something end a call at once if the
// others are no majority. The word of one of three does not: the others answer a moment later.
func TestWordOfClosedNodes(t *testing.T) {
	say := func(r keystead.Reason) error { return keystead.Deny(keystead.Finding{Reason: r, Where: "node"}) }
	recovery, full, few := say(keystead.ReasonClosedRecovery), say(keystead.ReasonDiskFull), say(keystead.ReasonClosedNoMajority)
	busy := say(keystead.ReasonNoQuorum)
	for name, tt := range map[string]struct {
		answers []error // one after the other; after them each node answers
		want    error
		asked   int
	}{
		"one lies":                            {[]error{recovery, busy, busy}, nil, 4},
		"one disk is full":                    {[]error{busy, full, busy, busy, full, busy}, nil, 7},
		"the same one, time after time":       {[]error{recovery, busy, busy, recovery, busy, busy, recovery, busy, busy}, nil, 10},
		"two":                                 {[]error{recovery, busy, recovery}, recovery, 3},
		"all":                                 {[]error{full, full, full}, full, 3},
		"one that knows, one that waits":      {[]error{few, recovery, busy}, recovery, 3},
		"nodes that may come back themselves": {[]error{few, few, few}, nil, 4},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Client{nodes: []*node{{}, {}, {}}, opts: Options{Attempt: time.Minute}}
			asked := 0
			err := c.each(t.Context(), func(context.Context, *node) error {
				if asked++; asked <= len(tt.answers) {
					return refusal.Encode(tt.answers[asked-1])
				}
				return nil
			})
			if (err == nil) != (tt.want == nil) || err != nil && err.Error() != tt.want.Error() || asked != tt.asked {
				t.Errorf("after %d questions, want %d: %v, want %v", asked, tt.asked, err, tt.want)
			}
		})
	}
	c := &Client{nodes: []*node{{}}, opts: Options{Attempt: time.Minute}}
	if err := c.each(t.Context(), func(context.Context, *node) error { return refusal.Encode(full) }); !errors.Is(err, keystead.ReasonDiskFull) {
		t.Errorf("the only node that is asked: %v", err)
	}
}
