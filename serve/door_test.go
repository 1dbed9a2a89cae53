package serve

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/part"
)

// all returns the procedures of this room.
func all(opts *Options) (out []part.Procedure) {
	for _, of := range [][]part.Procedure{LedgerProcedures(nil, opts), DomainProcedures(nil), HostProcedures(nil), KeyProcedures(nil), ObjectProcedures(nil), ArchiveProcedures(nil, opts), NodeProcedures(nil)} {
		out = append(out, of...)
	}
	return out
}

// answeredBy returns them with another handler.
func answeredBy(next http.Handler, opts *Options) (out []part.Procedure) {
	for _, p := range all(opts) {
		p.Handler = func(...connect.HandlerOption) http.Handler { return next }
		out = append(out, p)
	}
	return out
}

// TestCheckedLimits: limits that bound nothing, or too little, are found.
func TestCheckedLimits(t *testing.T) {
	good := part.Limits{In: 1, Values: 1, Out: 1}
	for name, c := range map[string]struct {
		change func(*part.Limits)
		want   string
	}{
		"as they should be":        {func(*part.Limits) {}, ""},
		"no bound on parts":        {func(l *part.Limits) { l.Values = 0 }, "bounds too little"},
		"no bound on answers":      {func(l *part.Limits) { l.Out = 0 }, "bounds too little"},
		"evidence of strangers":    {func(l *part.Limits) { l.In = 0 }, "bounds too little"},
		"evidence of hosts":        {func(l *part.Limits) { l.In, l.From = 0, part.ClassHost }, ""},
		"a message too large":      {func(l *part.Limits) { l.In = 2<<20 + 1 }, "one message"},
		"an answer too large":      {func(l *part.Limits) { l.Out = 8<<20 + 1 }, "one answer"},
		"a large one, by members":  {func(l *part.Limits) { l.Out, l.Shown = 8<<20+1, true }, ""},
		"a large one, among nodes": {func(l *part.Limits) { l.Out, l.From = 8<<20+1, part.ClassNode }, ""},
	} {
		l := good
		c.change(&l)
		err := Check(&part.Procedure{Path: "/a/b", Limits: l})
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for _, p := range all(&Options{}) {
		if err := Check(&p); err != nil {
			t.Error(err)
		}
	}
}

// message is what a request sends, in either encoding.
func message(t *testing.T, m proto.Message, json bool) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if json {
		b, err = protojson.Marshal(m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestValuesAreCounted: a message may have as many parts as the procedure has use for, in
// either encoding, and not one more.
func TestValuesAreCounted(t *testing.T) {
	rows := rows(all(&Options{Timeout: time.Second}), nil, &Options{Timeout: time.Second})
	operations := func(n int) proto.Message {
		tx := &apiv1.Transaction{Contract: "kv", RequestId: make([]byte, 16), DeadlineMs: 1}
		for range n {
			tx.Operations = append(tx.Operations, &apiv1.Operation{Key: "kv/a", Value: []byte("x"), Compare: &apiv1.Compare{Want: &apiv1.Compare_Value{Value: []byte("y")}}})
		}
		return &apiv1.ExecuteRequest{Transaction: tx}
	}
	empty := func(n int) proto.Message {
		return &apiv1.ExecuteRequest{Transaction: &apiv1.Transaction{Operations: make([]*apiv1.Operation, n)}}
	}
	leaves := func(n int) proto.Message {
		out := &apiv1.GetReceiptsRequest{WaitMs: 1, ChainOnce: true}
		for i := range n {
			out.Leaves = append(out.Leaves, 1<<40+uint64(i))
		}
		return out
	}
	batch := func(n int) proto.Message {
		out := &apiv1.PipelineRequest{}
		for range n {
			out.Transactions = append(out.Transactions, operations(1).(*apiv1.ExecuteRequest).Transaction)
		}
		return out
	}
	for name, c := range map[string]struct {
		procedure string
		make      func(int) proto.Message
		good, bad int
	}{
		"operations":       {apiv1connect.LedgerServiceExecuteProcedure, operations, maxOperations, 8 * maxOperations},
		"empty operations": {apiv1connect.LedgerServiceExecuteProcedure, empty, maxOperations, 8*maxOperations + 1},
		"leaves":           {apiv1connect.LedgerServiceGetReceiptsProcedure, leaves, maxReceipts, 2*maxReceipts + 1},
		"transactions":     {apiv1connect.LedgerServicePipelineProcedure, batch, maxBatch, 4 * maxBatch},
	} {
		for _, json := range []bool{false, true} {
			row := rows[c.procedure]
			if err := row.count(message(t, c.make(c.good), json), json); err != nil {
				t.Errorf("%d %s (JSON %v): %v", c.good, name, json, err)
			}
			var format *keystead.FormatError
			if err := row.count(message(t, c.make(c.bad), json), json); !errors.As(err, &format) {
				t.Errorf("%d %s (JSON %v): %v", c.bad, name, json, err)
			}
		}
	}
	for name, b := range map[string][]byte{"text": []byte(`{"a":"` + strings.Repeat(`,[{\"`, 1<<16) + `"}`), "unknown fields": bytes.Repeat([]byte{0xf8, 0x07, 0x01}, 100), "half a tag": {0x80}} {
		if err := rows[apiv1connect.LedgerServiceExecuteProcedure].count(b, name == "text"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzValues: what is let through has no more parts than it may, by the library's own count.
func FuzzValues(f *testing.F) {
	f.Add([]byte{0x0a, 0x02, 0x1a, 0x00})
	f.Add(bytes.Repeat([]byte{0x0a, 0x02, 0x1a, 0x00}, 3000))
	row := rows(all(&Options{Timeout: time.Second}), nil, &Options{Timeout: time.Second})[apiv1connect.LedgerServiceExecuteProcedure]
	f.Fuzz(func(t *testing.T, b []byte) {
		var m apiv1.ExecuteRequest
		if row.count(b, false) == nil && proto.Unmarshal(b, &m) == nil && len(m.GetTransaction().GetOperations()) > row.Values {
			t.Errorf("%d operations", len(m.GetTransaction().GetOperations()))
		}
	})
}

// doorOf is a door before one handler.
func doorOf(next http.Handler, opts *Options) *door {
	return newDoor(answeredBy(next, opts), nil, opts)
}

// asked is a request as it reaches the door, and what became of it.
func asked(d *door, from part.Caller, remote, procedure, kind string, body io.Reader, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, procedure, body)
	r.RemoteAddr = remote
	r.Header.Set("Content-Type", kind)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r.WithContext(part.WithCaller(context.Background(), func() part.Caller { return from })))
	return w
}

// enveloped puts a message in its envelope.
func enveloped(flags byte, size uint32, content []byte) io.Reader {
	return bytes.NewReader(append(binary.BigEndian.AppendUint32([]byte{flags}, size), content...))
}

// TestNothingIsTakenFirst sends what is to be refused, in each of the forms that requests
// have: no handler sees it, and no memory stays taken.
func TestNothingIsTakenFirst(t *testing.T) {
	reached := 0
	d := doorOf(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			reached++
		}
	}), &Options{InFlight: 100, Timeout: time.Minute, Evidence: DefaultEvidence})
	const address = "192.0.2.1:1"
	execute, tail, pipeline := apiv1connect.LedgerServiceExecuteProcedure, apiv1connect.LedgerServiceTailProcedure, apiv1connect.LedgerServicePipelineProcedure
	for name, c := range map[string]struct {
		procedure, kind string
		body            io.Reader
		headers         []string
		want            string
	}{
		"a large body":                     {execute, "application/proto", io.LimitReader(ones{}, transaction+1), nil, "too-large"},
		"many parts":                       {execute, "application/proto", bytes.NewReader(bytes.Repeat([]byte{0x0a, 0x02, 0x1a, 0x00}, 100_000)), nil, "malformed"},
		"many parts of JSON":               {execute, "application/json", strings.NewReader(strings.Repeat("[", 100_000)), nil, "malformed"},
		"a packed body":                    {execute, "application/proto", strings.NewReader("x"), []string{"Content-Encoding", "gzip"}, "malformed"},
		"a packed envelope, announced":     {tail, "application/connect+proto", enveloped(1, 1, []byte("x")), []string{"Connect-Content-Encoding", "gzip"}, "malformed"},
		"a packed envelope, not announced": {tail, "application/grpc+proto", enveloped(1, 1, []byte("x")), nil, "malformed"},
		"a large envelope":                 {tail, "application/grpc", enveloped(0, small+1, nil), nil, "too-large"},
		"an endless envelope":              {tail, "application/connect+json", enveloped(0, 1<<31, nil), nil, "too-large"},
		"half an envelope":                 {tail, "application/connect+proto", enveloped(0, 100, []byte("x")), nil, "timeout"},
	} {
		w := asked(d, part.Caller{}, address, c.procedure, c.kind, c.body, c.headers...)
		if told := w.Body.String() + fmt.Sprint(w.Result().Header, w.Result().Trailer); !strings.Contains(told, c.want) {
			t.Errorf("%s: %d %.200q, want %s", name, w.Code, told, c.want)
		}
	}
	if reached != 0 {
		t.Errorf("%d were handed on", reached)
	}
	for name, body := range map[string]io.Reader{"packed": enveloped(1, 1, []byte("x")), "large": enveloped(0, transaction+1, nil), "of many parts": enveloped(0, 100_000, bytes.Repeat([]byte{0x0a, 0x00}, 50_000))} {
		if asked(d, part.Caller{}, address, pipeline, "application/connect+proto", body); reached != 0 {
			t.Errorf("a message of a stream, %s, was handed on", name)
		}
	}
	if w := asked(d, part.Caller{}, address, execute, "application/proto", bytes.NewReader(nil)); w.Code != 200 || reached != 1 {
		t.Errorf("what is as it should be: %d %s", w.Code, w.Body)
	}
	if w := asked(d, part.Caller{}, address, "/keystead.v1.LedgerService/Other", "application/proto", io.LimitReader(ones{}, 1<<20)); w.Code != 404 {
		t.Errorf("a procedure that is none: %d", w.Code)
	}
	for c, in := range d.classes {
		if in.room.taken != 0 || len(in.room.of) != 0 || in.calls.Load() != 0 || in.waiting.taken != 0 {
			t.Errorf("of %v, %d bytes are taken, %d calls, %d waiting", part.Class(c), in.room.taken, in.calls.Load(), in.waiting.taken)
		}
	}
}

type ones struct{}

func (ones) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 1
	}
	return len(b), nil
}

// TestStrangersLeaveMemory has 64 addresses send bodies that do not end, as many as they
// get: a stranger from another address, a host and a node are served, and what the
// bodies take is bounded.
func TestStrangersLeaveMemory(t *testing.T) {
	d := doorOf(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}), &Options{InFlight: 16384, Timeout: time.Minute, Evidence: DefaultEvidence})
	hold, end := io.Pipe()
	defer end.Close()
	refused := make(chan struct{}, 64*128)
	for i := range 64 {
		for range 64 {
			go func() { // 60 KiB of a body come, and then nothing
				w := asked(d, part.Caller{}, fmt.Sprintf("10.0.0.%d:1", i), apiv1connect.LedgerServiceExecuteProcedure, "application/proto", io.MultiReader(io.LimitReader(ones{}, 60<<10), hold))
				if strings.Contains(w.Body.String(), "overloaded") {
					refused <- struct{}{}
				}
			}()
		}
	}
	for range 64 * 48 { // most of them
		<-refused
	}
	room := d.classes[part.ClassStranger].room
	room.mu.Lock()
	taken := room.taken
	room.mu.Unlock()
	if taken > shares[part.ClassStranger].memory || taken < shares[part.ClassStranger].memory/8 {
		t.Errorf("%d bytes are taken of %d", taken, shares[part.ClassStranger].memory)
	}
	for name, from := range map[string]part.Caller{"another stranger": {}, "a host": {EK: keystead.Sum([]byte("host"))}, "a host by its last lease": {TLS: keystead.Sum([]byte("key")), Key: part.ClassHost}, "a node": {Node: "n1"}} {
		if w := asked(d, from, "192.0.2.1:1", apiv1connect.LedgerServiceExecuteProcedure, "application/proto", io.LimitReader(zeroes{}, 8<<10)); w.Code != 200 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// zeroes are no message, and no parts.
type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestAnswersAreBudgeted: what is to be answered is held to its bound and to what memory
// there is before it is made.
func TestAnswersAreBudgeted(t *testing.T) {
	var got []error
	spend := func(n, times int) {
		d := doorOf(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for range times {
				if err := part.Spend(r.Context(), n); err != nil {
					got = append(got, err)
					return
				}
			}
			got = append(got, nil)
			sent(r.Context())
			if c := callOf(r.Context()); c.answer != 0 || c.room.taken != c.message {
				t.Errorf("%d bytes are taken when all was sent", c.room.taken)
			}
		}), &Options{InFlight: 100, Timeout: time.Minute, Evidence: DefaultEvidence})
		asked(d, part.Caller{}, "192.0.2.1:1", apiv1connect.LedgerServiceReadProcedure, "application/proto", bytes.NewReader(nil))
		if d.classes[part.ClassStranger].room.taken != 0 {
			t.Error("memory stays taken")
		}
	}
	spend(answers, 1)
	spend(answers/7, 8)
	spend(answers+1, 1)
	if got[0] != nil || !errors.Is(got[1], keystead.ReasonTooLarge) || !errors.Is(got[2], keystead.ReasonTooLarge) {
		t.Errorf("%v", got)
	}
	room := NewRoom(shares[part.ClassStranger].memory)
	n := 0
	for i := range 64 { // as many addresses ask for the largest answers
		c := &call{row: &row{Limits: part.Limits{Out: answers}}, inside: &inside{room: room}, who: i}
		if c.spend(answers) == nil {
			n++
		}
	}
	if n == 0 || n > 3 || room.taken > room.size/2 {
		t.Errorf("%d of the largest answers at a time, %d bytes", n, room.taken)
	}
}
