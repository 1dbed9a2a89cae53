package serve

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/part"
)

// gateRequest sends a request to the gate that announces a body of a size, and whose body
// comes when it may.
func gateRequest(gate http.Handler, from part.Caller, size int64, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, apiv1connect.HostServiceAdmitProcedure, body)
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = size
	w := httptest.NewRecorder()
	gate.ServeHTTP(w, r.WithContext(part.WithCaller(context.Background(), func() part.Caller { return from })))
	return w
}

// evidenceDoor is one behind which all is answered.
func evidenceDoor(bounds Evidence) *door {
	return doorOf(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), &Options{InFlight: 1000, Timeout: time.Minute, Evidence: bounds})
}

// awaitTaken waits until so much room is taken.
func awaitTaken(t *testing.T, r *Room, size int64) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		taken := r.taken
		r.mu.Unlock()
		if taken == size {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d bytes are taken, not %d", taken, size)
		}
	}
}

// TestStrangersSendNoEvidence has clients that showed nothing announce as much evidence as
// there is room for and send none of it: a host's is taken all the same. One machine
// can not take up the room of all others either.
func TestStrangersSendNoEvidence(t *testing.T) {
	door := evidenceDoor(DefaultEvidence)
	never, end := io.Pipe()
	defer end.Close()
	host := part.Caller{EK: keystead.Sum([]byte("a host"))}

	for name, p := range map[string]part.Caller{"a stranger": {TLS: keystead.Sum([]byte("a key"))}, "who has the key of a host": {TLS: keystead.Sum([]byte("a key")), Key: part.ClassHost}} {
		if w := gateRequest(door, p, maxEvidence, never); w.Code == http.StatusOK || !strings.Contains(w.Body.String(), string(keystead.ReasonEvidenceMissing)) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	for i := range DefaultEvidence.Machine / maxEvidence {
		go gateRequest(door, host, maxEvidence, never)
		awaitTaken(t, door.machines, (i+1)*maxEvidence)
	}
	host.TLS = keystead.Sum([]byte("another key of the same machine"))
	if w := gateRequest(door, host, maxEvidence, never); w.Code == http.StatusOK || !strings.Contains(w.Body.String(), string(keystead.ReasonOverloaded)) {
		t.Errorf("one host's fifth request: %d %s", w.Code, w.Body)
	}
	other := part.Caller{EK: keystead.Sum([]byte("another"))}
	if w := gateRequest(door, other, maxEvidence, strings.NewReader("")); w.Code != http.StatusOK {
		t.Errorf("another host's request: %d %s", w.Code, w.Body)
	}
}

// TestPackedIsRefused sends bodies that say they unpack to something else, in each of the
// ways that there are, by all who may send any: none is read.
func TestPackedIsRefused(t *testing.T) {
	for _, header := range []string{"Content-Encoding", "Connect-Content-Encoding", "Grpc-Encoding"} {
		for name, from := range map[string]part.Caller{"a host": {EK: keystead.Sum([]byte("a host"))}, "a node": {Node: "n2"}} {
			r := httptest.NewRequest(http.MethodPost, apiv1connect.HostServiceRenewProcedure, iotest.ErrReader(errors.New("it is read")))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set(header, "gzip")
			r.ContentLength = 20_000
			w := httptest.NewRecorder()
			evidenceDoor(DefaultEvidence).ServeHTTP(w, r.WithContext(part.WithCaller(context.Background(), func() part.Caller { return from })))
			if w.Code == http.StatusOK || !strings.Contains(w.Body.String(), "compressed") {
				t.Errorf("%s, from %s: %d %s", header, name, w.Code, w.Body)
			}
		}
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
	gate := evidenceDoor(bounds)
	if w := gateRequest(gate, part.Caller{EK: keystead.Sum([]byte("a host"))}, 2<<20, strings.NewReader("")); !strings.Contains(w.Body.String(), string(keystead.ReasonTooLarge)) {
		t.Errorf("a machine's: %d %s", w.Code, w.Body)
	}
	if w := gateRequest(gate, part.Caller{Node: "n2"}, 2<<20, strings.NewReader("")); w.Code != http.StatusOK {
		t.Errorf("a node's: %d %s", w.Code, w.Body)
	}
}
