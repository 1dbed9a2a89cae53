package node

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/policy"
)

// lyingPeer is a node that answers every digest with the same bytes, over and over.
type lyingPeer struct {
	apiv1connect.UnimplementedHostServiceHandler
	answer atomic.Pointer[repeated]
}

// repeated is a chunk, so many times.
type repeated struct {
	chunk []byte
	times int
}

func (l *lyingPeer) GetObject(_ context.Context, _ *connect.Request[apiv1.GetObjectRequest], s *connect.ServerStream[apiv1.GetObjectResponse]) error {
	a := l.answer.Load()
	for range a.times {
		if err := s.Send(&apiv1.GetObjectResponse{Chunk: a.chunk}); err != nil {
			return err
		}
	}
	return nil
}

// TestPeersObjects has another node hand over other bytes than were asked for, and more than
// what was asked for is ever long: neither is taken, and of the latter no more than that.
func TestPeersObjects(t *testing.T) {
	t.Parallel()
	l := &lyingPeer{}
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewHostServiceHandler(l))
	s := httptest.NewServer(mux)
	defer s.Close()
	p := &peer{Contact: client.Contact{Name: "n2"}, host: apiv1connect.NewHostServiceClient(s.Client(), s.URL, connect.WithReadMaxBytes(maxPeerAnswer))}
	good := []byte("what was asked for")
	l.answer.Store(&repeated{good, 1})
	if b, err := p.object(t.Context(), keystead.Sum(good), mostVerdict); err != nil || string(b) != string(good) {
		t.Errorf("as it should be: %q, %v", b, err)
	}
	l.answer.Store(&repeated{[]byte("other bytes"), 1})
	if _, err := p.object(t.Context(), keystead.Sum(good), mostVerdict); !errors.Is(err, keystead.ReasonObjectMismatch) {
		t.Errorf("other bytes: %v", err)
	}
	l.answer.Store(&repeated{make([]byte, 256<<10), MaxObject / (256 << 10)})
	for what, most := range map[string]int64{"evidence": mostEvidence, "a verdict": mostVerdict, "a policy": mostOf(admit.ObjectPolicy), "roots": mostOf(admit.ObjectRoots),
		"collateral": mostOf(admit.ObjectCollateral), "a code set": mostOf(admit.ObjectCodeSet)} {
		if _, err := p.object(t.Context(), keystead.Sum(good), most); !errors.Is(err, keystead.ReasonTooLarge) {
			t.Errorf("%s of 64 MiB: %v", what, err)
		}
	}
	if mostVerdict > 1<<20 || mostEvidence > 16<<20 || mostOf(admit.ObjectPolicy) > 2*policy.MaxText || mostOf(admit.ObjectCollateral) != evidence.MaxCollateral {
		t.Error("a kind's bound is far from what its reader takes")
	}
}
