package serve

import (
	"context"

	"github.com/keystead/keystead"
)

// mayWrite refuses transactions of who is none of those that Options.MayWrite lets write.
func (s *server) mayWrite(ctx context.Context) error {
	from := PeerOf(ctx)
	if s.opts.MayWrite == nil || s.opts.MayWrite(from) {
		return nil
	}
	got := "no key in TLS"
	if !from.TLS.IsZero() {
		got = from.TLS.String()
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonWriterUnlisted, Where: "transaction", Want: "the key of a writer that this node lists (api.writers, or api.open-writes for anybody)", Got: got})
}
