package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/serve"
)

// fetchTime is how long other nodes have to hand over an object that is to be judged.
const fetchTime = 5 * time.Second

// PutObject implements serve.Objects.
func (n *Node) PutObject(_ context.Context, content io.Reader) (keystead.Digest, error) {
	return n.objects.put(content, time.Now())
}

// OpenObject implements serve.Objects. Evidence that is being judged goes to other
// nodes only.
func (n *Node) OpenObject(ctx context.Context, d keystead.Digest) (io.ReadCloser, error) {
	if b, ok := n.evidence.get(d); ok && serve.PeerOf(ctx).Node != "" {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return n.objects.open(d)
}

// object returns an object that is here, or that another node hands over in time and
// that is kept from then on.
func (n *Node) object(ctx context.Context, d keystead.Digest) ([]byte, error) {
	b, err := n.objects.get(d)
	if !errors.Is(err, keystead.ReasonObjectMissing) {
		return b, err
	}
	if b, err = n.fetch(ctx, d); err != nil {
		return nil, err
	}
	_, err = n.objects.put(bytes.NewReader(b), time.Now())
	return b, err
}

// fetch asks all other nodes for bytes of that digest and takes the first that are.
func (n *Node) fetch(ctx context.Context, d keystead.Digest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	others := n.peers.others()
	type answer struct {
		content []byte
		err     error
	}
	answers := make(chan answer, len(others))
	for _, p := range others {
		go func() {
			b, err := p.object(ctx, d)
			answers <- answer{b, err}
		}()
	}
	var errs []error
	for range others {
		a := <-answers
		if a.err == nil {
			return a.content, nil
		}
		errs = append(errs, a.err)
	}
	return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMissing, Where: "objects", Want: d.String(), Got: fmt.Sprintf("none here, and %d other nodes asked: %v", len(others), errors.Join(errs...))})
}

// object fetches an object and holds it to its digest.
func (p *peer) object(ctx context.Context, d keystead.Digest) ([]byte, error) {
	stream, err := p.host.GetObject(ctx, connect.NewRequest(&apiv1.GetObjectRequest{Digest: d.String()}))
	if err != nil {
		return nil, refusal.Decode(err)
	}
	defer stream.Close()
	var b []byte
	for stream.Receive() {
		if b = append(b, stream.Msg().GetChunk()...); len(b) > MaxObject {
			break
		}
	}
	if err := stream.Err(); err != nil {
		return nil, refusal.Decode(err)
	}
	if got := keystead.Sum(b); got != d {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMismatch, Where: "object from node " + p.Name, Want: d.String(), Got: got.String()})
	}
	return b, nil
}
