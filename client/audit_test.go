package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// liar is a node of a domain that shows a checkpoint of its own making, and leaves
// without end.
type liar struct {
	apiv1connect.UnimplementedLedgerServiceHandler
	apiv1connect.UnimplementedDomainServiceHandler
	genesis []byte
	note    []byte
	tailed  atomic.Bool
}

func (l *liar) Show(context.Context, *connect.Request[apiv1.ShowRequest]) (*connect.Response[apiv1.ShowResponse], error) {
	return connect.NewResponse(&apiv1.ShowResponse{Genesis: l.genesis}), nil
}

func (l *liar) GetCheckpoint(context.Context, *connect.Request[apiv1.GetCheckpointRequest]) (*connect.Response[apiv1.GetCheckpointResponse], error) {
	return connect.NewResponse(&apiv1.GetCheckpointResponse{Note: l.note}), nil
}

func (l *liar) Tail(context.Context, *connect.Request[apiv1.TailRequest], *connect.ServerStream[apiv1.TailResponse]) error {
	l.tailed.Store(true)
	return nil
}

// lie founds a domain of three nodes, of which one lies, and returns it with a client.
func lie(t *testing.T) (*liar, *client.Client, receipt.TreeHead, *key.Node) {
	t.Helper()
	l := &liar{}
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewLedgerServiceHandler(l))
	mux.Handle(apiv1connect.NewDomainServiceHandler(l))
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	s.StartTLS()
	t.Cleanup(s.Close)

	m, err := key.NewMember(strings.NewReader(strings.Repeat("m", 32)), "m")
	if err != nil {
		t.Fatal(err)
	}
	own := signer(t, "1")
	g := receipt.Genesis{Name: "lied-to", Created: 1, Settings: []string{receipt.Evidence + "=" + receipt.EvidenceNone}, Roster: receipt.Roster{Threshold: 1, Members: []key.MemberPublic{m.Public()},
		Nodes: []receipt.Node{{Name: "n1", Key: own.Public()}, {Name: "n2", Key: signer(t, "2").Public()}, {Name: "n3", Key: signer(t, "3").Public()}}}}
	text, err := g.Text()
	if err != nil {
		t.Fatal(err)
	}
	note, err := m.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	if l.genesis, err = receipt.NoteEntry(note); err != nil {
		t.Fatal(err)
	}
	domain := keystead.Sum(l.genesis)
	contact := client.Contact{Name: "n1", Key: own.Public(), TLS: keystead.Sum(s.Certificate().RawSubjectPublicKeyInfo), Peer: "127.0.0.1:1", API: s.URL}
	c, err := client.Open(&client.Domain{Genesis: note, Contacts: [][]byte{contact.Sign(own)}}, domain, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return l, c, receipt.TreeHead{Domain: domain, Size: 1 << 60, Root: keystead.Sum([]byte("root")), Entry: domain}, own
}

// TestAuditReadsNoUnsignedSize has a node name a size that no majority signed: not
// one leaf of it may be asked for.
func TestAuditReadsNoUnsignedSize(t *testing.T) {
	l, c, head, own := lie(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l.note = receipt.AppendSignature(append(head.Text(), '\n'), receipt.Node{Name: "n1", Key: own.Public()}, head.Sign(own))
	if _, err := c.Audit(ctx, nil); !errors.Is(err, keystead.ReasonMajorityMissing) {
		t.Errorf("a checkpoint signed by one of three: want majority-missing, got %v", err)
	}
	l.note = []byte("keystead/x\n1\n")
	var format *keystead.FormatError
	if _, err := c.Audit(ctx, nil); !errors.As(err, &format) {
		t.Errorf("no checkpoint at all: want a FormatError, got %v", err)
	}
	if l.tailed.Load() {
		t.Error("leaves were asked for under a checkpoint that nobody signed")
	}
}
