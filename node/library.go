package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/refval/deb"
)

// fetchTime is how long other nodes have to hand over an object that is to be judged.
const fetchTime = 5 * time.Second

// PutObject implements serve.Objects.
func (n *library) PutObject(_ context.Context, from netip.Addr, content io.Reader) (keystead.Digest, error) {
	if !from.IsValid() {
		from = netip.IPv6Unspecified()
	}
	return n.objects.take(content, time.Now(), from)
}

// OpenObject implements serve.Objects. Evidence that is being judged, and verdicts on it,
// go to other nodes only.
func (n *library) OpenObject(ctx context.Context, d keystead.Digest) (io.ReadCloser, error) {
	if part.CallerOf(ctx).Node != "" {
		b, ok := n.evidence.get(d)
		if !ok {
			b, ok = n.verdicts.get(d)
		}
		if ok {
			return io.NopCloser(bytes.NewReader(b)), nil
		}
	}
	return n.objects.open(d)
}

// Bounds of what other nodes hand over, by what it is said to be, in bytes.
const (
	mostEvidence = 16 << 20
	mostVerdict  = receipt.MaxEntry
)

// mostOf bounds an object of a kind, in bytes.
func mostOf(kind string) int64 {
	switch kind {
	case admit.ObjectPolicy:
		return policy.MaxText + 64<<10 // and signatures
	case admit.ObjectRoots, admit.ObjectTEERoots:
		return admit.MaxRoots
	case admit.ObjectCollateral:
		return evidence.MaxCollateral
	case admit.IngredientRecipe:
		return deb.MaxRecipe
	case admit.ObjectCodeSet:
		return key.MaxNote
	case admit.ObjectAppRoots:
		return admit.MaxSystemObject
	case admit.ObjectContract:
		return admit.MaxContract
	}
	return MaxObject
}

// object returns an object that is here, or that another node hands over in time and
// that is kept from then on; of that at most so many bytes are taken.
func (n *library) object(ctx context.Context, d keystead.Digest, most int64) ([]byte, error) {
	return n.obtain(ctx, d, most, (*peer).object)
}

// public is object without evidence, for what evidence is judged by: the digest says
// whether it is right, whoever hands it over.
func (n *library) public(ctx context.Context, d keystead.Digest, most int64) ([]byte, error) {
	return n.obtain(ctx, d, most, (*peer).publicObject)
}

func (n *library) obtain(ctx context.Context, d keystead.Digest, most int64, ask asking) ([]byte, error) {
	b, err := n.objects.get(d)
	if !errors.Is(err, keystead.ReasonObjectMissing) {
		return b, err
	}
	if b, err = n.fetch(ctx, d, most, ask); err != nil {
		return nil, err
	}
	_, err = n.objects.put(bytes.NewReader(b), time.Now())
	return b, err
}

// asking is a way to ask a node for an object.
type asking func(p *peer, ctx context.Context, d keystead.Digest, most int64) ([]byte, error)

// fetch asks all other nodes for bytes of that digest and takes the first that are.
func (n *library) fetch(ctx context.Context, d keystead.Digest, most int64, ask asking) ([]byte, error) {
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
			b, err := ask(p, ctx, d, most)
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
func (p *peer) object(ctx context.Context, d keystead.Digest, most int64) ([]byte, error) {
	return p.take(ctx, p.host, d, most)
}

func (p *peer) publicObject(ctx context.Context, d keystead.Digest, most int64) ([]byte, error) {
	return p.take(ctx, p.public, d, most)
}

func (p *peer) take(ctx context.Context, from apiv1connect.HostServiceClient, d keystead.Digest, most int64) ([]byte, error) {
	stream, err := from.GetObject(ctx, connect.NewRequest(&apiv1.GetObjectRequest{Digest: d.String()}))
	if err != nil {
		return nil, refusal.Decode(err)
	}
	defer stream.Close()
	var b []byte
	for stream.Receive() {
		if b = append(b, stream.Msg().GetChunk()...); int64(len(b)) > most {
			return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Where: "object from node " + p.Name, Want: fmt.Sprintf("at most %d bytes of what %s is to be", most, d), Got: "more"})
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

// libraryEvery is how often a node looks for objects that it should have.
const libraryEvery = 10 * time.Second

// libraryLoop keeps the objects that the ledger and the genesis entry name, fetches
// those that are not here, and lets go of what nothing has named in time.
func (n *library) libraryLoop() {
	every := time.NewTicker(libraryEvery)
	defer every.Stop()
	for {
		if err := n.collectObjects(); err != nil {
			n.log.Debug("objects are not all here yet", "because", err)
		}
		if err := n.objects.sweep(n.now()); err != nil {
			n.log.Error("objects not let go", "because", err)
		}
		if err := n.forgetVerdicts(); err != nil {
			n.log.Error("verdicts not let go", "because", err)
		}
		select {
		case <-every.C:
		case <-n.running.Done():
			return
		}
	}
}

// collectObjects fetches and keeps what is named.
func (n *library) collectObjects() error {
	named, err := n.namedObjects()
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range named {
		if n.objects.kept(o.Digest) {
			continue
		}
		if _, err := n.object(n.running, o.Digest, mostOf(o.Kind)); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, n.objects.keep(o.Digest))
	}
	return errors.Join(errs...)
}

// namedObjects lists the objects that entries in effect name: founding terms and
// what they name, and judged objects.
func (n *library) namedObjects() (out []admit.Named, err error) {
	for _, role := range []string{admit.RoleHost, admit.RoleNode} {
		d, err := keystead.ParseDigest("sha256:" + n.genesis.Setting(admit.FoundingSetting(role)))
		if err != nil {
			continue // not founded with terms
		}
		out = append(out, admit.Named{Digest: d, Kind: admit.ObjectCodeSet}) // as long as a note may be
		text, err := n.object(n.running, d, key.MaxNote)
		if err != nil {
			return nil, err
		}
		terms, err := admit.ParseTerms(text)
		if err != nil {
			return nil, err
		}
		out = append(out, terms.Objects()...)
	}
	err = n.snapshot(func(v ledger.View) error {
		return v.JudgedKeys(admit.TypeObject+"/", "", func(key string, kind ledger.Value) bool {
			if d, err := keystead.ParseDigest(key[len(admit.TypeObject)+1:]); err == nil {
				out = append(out, admit.Named{Digest: d, Kind: string(kind.Data)})
			}
			return true
		})
	})
	return out, err
}

// tookEffect does what follows from an effective entry. It must not block.
func (n *Node) tookEffect(v *ledger.Verdict) {
	if d, err := keystead.ParseDigest(v.Subject); v.Type == admit.TypeObject && err == nil {
		if err := n.objects.keep(d); err != nil {
			n.log.Debug("object is not here yet", "because", err)
		}
	}
	n.lastLeases.heard(v)
	n.consequences(v)
}
