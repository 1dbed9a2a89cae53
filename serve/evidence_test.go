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
