package serve

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/api/v1/apiv1connect"
)

// gateRequest sends a request to the gate that announces a body of a size, and whose body
// comes when it may.
func gateRequest(gate http.Handler, from Peer, size int64, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, apiv1connect.HostServiceAdmitProcedure, body)
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = size
	w := httptest.NewRecorder()
	gate.ServeHTTP(w, r.WithContext(WithPeer(context.Background(), func() Peer { return from })))
	return w
}

// TestStrangersSendNoEvidence has clients that showed nothing announce as much evidence as
// there is room for and send none of it: a host's is taken all the same. One machine
// can not take up the room of all others either.
func TestStrangersSendNoEvidence(t *testing.T) {
	taken := make(chan struct{}, 1)
	gate := evidenceGate(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		taken <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body)
	}), DefaultEvidence)
	never, end := io.Pipe()
	defer end.Close()
	host := Peer{EK: keystead.Sum([]byte("a host"))}

	if w := gateRequest(gate, Peer{TLS: keystead.Sum([]byte("a key"))}, maxEvidence, never); w.Code == http.StatusOK || !strings.Contains(w.Body.String(), string(keystead.ReasonEvidenceMissing)) {
		t.Errorf("a stranger's evidence: %d %s", w.Code, w.Body)
	}
	for range DefaultEvidence.Machine / maxEvidence {
		go gateRequest(gate, host, maxEvidence, never)
		<-taken
	}
	host.TLS = keystead.Sum([]byte("another key of the same machine"))
	if w := gateRequest(gate, host, maxEvidence, never); w.Code == http.StatusOK || !strings.Contains(w.Body.String(), string(keystead.ReasonOverloaded)) {
		t.Errorf("one host's fifth request: %d %s", w.Code, w.Body)
	}
	other := Peer{EK: keystead.Sum([]byte("another"))}
	if w := gateRequest(gate, other, maxEvidence, strings.NewReader("")); w.Code != http.StatusOK {
		t.Errorf("another host's request: %d %s", w.Code, w.Body)
	}
}

// TestPackedEvidenceCounts has a machine send small bodies that may unpack to large ones:
// each counts for what it may come to.
func TestPackedEvidenceCounts(t *testing.T) {
	for _, header := range []string{"Content-Encoding", "Connect-Content-Encoding", "Grpc-Encoding"} {
		taken := make(chan struct{}, 1)
		gate := evidenceGate(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			taken <- struct{}{}
			_, _ = io.Copy(io.Discard, r.Body)
		}), DefaultEvidence)
		never, end := io.Pipe()
		request := func() *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodPost, apiv1connect.HostServiceRenewProcedure, never)
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set(header, "gzip")
			r.ContentLength = 20_000
			w := httptest.NewRecorder()
			gate.ServeHTTP(w, r.WithContext(WithPeer(context.Background(), func() Peer { return Peer{EK: keystead.Sum([]byte("a host"))} })))
			return w
		}
		for range DefaultEvidence.Machine / DefaultEvidence.Bundle {
			go request()
			<-taken
		}
		if w := request(); !strings.Contains(w.Body.String(), string(keystead.ReasonOverloaded)) {
			t.Errorf("%s: one more: %d %s", header, w.Code, w.Body)
		}
		end.Close()
	}
}

// TestManyLeaveRoom has 250 machines announce as much evidence as each of them may, and
// send none: a machine that comes later has room for a renewal.
func TestManyLeaveRoom(t *testing.T) {
	room := NewRoom(DefaultEvidence.Pending)
	for i := range 250 {
		for size := int64(16 << 20); size >= 1<<10; {
			if _, err := room.Enter(i, size, DefaultEvidence.Machine); err != nil {
				size /= 2
			}
		}
	}
	leave, err := room.Enter("another", 1<<20, DefaultEvidence.Machine)
	if err != nil {
		t.Fatalf("with %d of %d taken: %v", room.taken, room.size, err)
	}
	leave()
	leave, err = room.Enter("another", 1<<20, DefaultEvidence.Machine)
	if err != nil {
		t.Errorf("room that was given back: %v", err)
	} else {
		leave()
	}
}

// TestLargeEvidenceIsRefused announces more than the node takes, from a machine and from a
// node, to which another bound applies.
func TestLargeEvidenceIsRefused(t *testing.T) {
	bounds := Evidence{Bundle: 1 << 20, Machine: 4 << 20, Pending: 64 << 20, Node: 64 << 20}
	gate := evidenceGate(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), bounds)
	if w := gateRequest(gate, Peer{EK: keystead.Sum([]byte("a host"))}, 2<<20, strings.NewReader("")); !strings.Contains(w.Body.String(), string(keystead.ReasonTooLarge)) {
		t.Errorf("a machine's: %d %s", w.Code, w.Body)
	}
	if w := gateRequest(gate, Peer{Node: "n2"}, 2<<20, strings.NewReader("")); w.Code != http.StatusOK {
		t.Errorf("a node's: %d %s", w.Code, w.Body)
	}
}
