package serve

import (
	"context"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/part"
)

// mayWrite refuses transactions of who is none of those that Options.MayWrite lets write.
func (s *booksAPI) mayWrite(ctx context.Context) error {
	from := part.CallerOf(ctx)
	if s.opts.MayWrite == nil || s.opts.MayWrite(from) {
		return nil
	}
	got := "no key in TLS"
	if !from.TLS.IsZero() {
		got = from.TLS.String()
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonWriterUnlisted, Where: "transaction", Want: "the key of a writer that this node lists (api.writers, or api.open-writes for anybody)", Got: got})
}
