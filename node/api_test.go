package node_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/receipt"
)

// alone founds and starts a domain of one node, with lines added to its
// configuration.
func alone(t *testing.T, config string) *cluster {
	t.Helper()
	c := found(t, 1, loopback)
	if config != "" {
		path := filepath.Join(c.nodes[0].dir, node.ConfigFile)
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(strings.Replace(string(b), "plain = false\n", "plain = false\n"+config+"\n", 1)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c.startAll()
	return c
}

func put(key string, value []byte) *apiv1.Transaction {
	return &apiv1.Transaction{Contract: client.KV, Operations: []*apiv1.Operation{{Key: key, Value: value}}}
}

// TestRefusals sends what must be refused, and demands the reason.
func TestRefusals(t *testing.T) {
	t.Parallel()
	c := alone(t, "")
	c.whole(0)
	cl := c.client("")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	with := func(change func(*apiv1.Transaction)) *apiv1.Transaction {
		tx := put("kv/a", []byte("1"))
		change(tx)
		return tx
	}
	for name, tc := range map[string]struct {
		tx   *apiv1.Transaction
		want keystead.Reason
	}{
		"outside its prefix":       {put("contact/n1", []byte("x")), keystead.ReasonWriteOutside},
		"prefix without a key":     {put("kv/", []byte("x")), keystead.ReasonMalformed},
		"long key":                 {put("kv/"+strings.Repeat("k", ledger.MaxKey), nil), keystead.ReasonMalformed},
		"long value":               {put("kv/a", make([]byte, ledger.MaxValue+1)), keystead.ReasonTooLarge},
		"long message":             {with(func(tx *apiv1.Transaction) { tx.Operations = many(20, ledger.MaxValue) }), keystead.ReasonTooLarge},
		"long entry":               {with(func(tx *apiv1.Transaction) { tx.Operations = many(3, ledger.MaxValue) }), keystead.ReasonMalformed},
		"many operations":          {with(func(tx *apiv1.Transaction) { tx.Operations = many(1025, 1) }), keystead.ReasonMalformed},
		"no operations":            {with(func(tx *apiv1.Transaction) { tx.Operations = nil }), keystead.ReasonMalformed},
		"short request id":         {with(func(tx *apiv1.Transaction) { tx.RequestId = []byte("short") }), keystead.ReasonMalformed},
		"another contract":         {with(func(tx *apiv1.Transaction) { tx.Contract = "contact" }), keystead.ReasonMalformed},
		"delete with a value":      {with(func(tx *apiv1.Transaction) { tx.Operations[0].Delete = true }), keystead.ReasonMalformed},
		"an empty comparison":      {with(func(tx *apiv1.Transaction) { tx.Operations[0].Compare = &apiv1.Compare{} }), keystead.ReasonMalformed},
		"after its deadline":       {with(func(tx *apiv1.Transaction) { tx.DeadlineMs = 1 }), keystead.ReasonRequestExpired},
		"a deadline far ahead":     {with(func(tx *apiv1.Transaction) { tx.DeadlineMs = 1 << 62 }), keystead.ReasonRequestExpired},
		"absent that is not meant": {with(func(tx *apiv1.Transaction) { tx.Operations[0].Compare = &apiv1.Compare{Want: &apiv1.Compare_Absent{}} }), keystead.ReasonMalformed},
	} {
		_, err := cl.Execute(ctx, tc.tx)
		demand(t, name, err, tc.want)
	}
	for name, tc := range map[string]struct {
		entry []byte
		want  keystead.Reason
	}{
		"nothing":              {nil, keystead.ReasonMalformed},
		"an unknown version":   {[]byte{9, 2, 0}, keystead.ReasonVersionUnknown},
		"a transaction":        {receipt.Header(receipt.KindTransaction), keystead.ReasonMalformed},
		"a checkpoint":         {receipt.Header(receipt.KindCheckpoint), keystead.ReasonMalformed},
		"a position":           {ledger.PositionEntry(), keystead.ReasonMalformed},
		"a torn proposal":      {receipt.Header(receipt.KindProposal), keystead.ReasonMalformed},
		"a roster of nobody's": {append(receipt.Header(receipt.KindRoster), "keystead-roster/1\n\n— a b\n"...), keystead.ReasonMalformed},
	} {
		_, err := cl.Submit(ctx, tc.entry, nil)
		demand(t, name, err, tc.want)
	}
	_, err := cl.Read(ctx, false)
	demand(t, "no keys", err, keystead.ReasonMalformed)
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	_, _, err = cl.Receipt(short, 1<<40)
	demand(t, "receipt of no leaf", err, keystead.ReasonTimeout)
	_, err = client.Open(c.file, keystead.Sum([]byte("another")), client.Options{})
	demand(t, "another domain", err, keystead.ReasonDomainMismatch)
}

func many(n, size int) (ops []*apiv1.Operation) {
	for i := range n {
		ops = append(ops, &apiv1.Operation{Key: fmt.Sprintf("kv/%d", i), Value: make([]byte, size)})
	}
	return ops
}

func demand(t *testing.T, what string, err error, want keystead.Reason) {
	t.Helper()
	var deny *keystead.DenyError
	var format *keystead.FormatError
	switch {
	case want == keystead.ReasonMalformed && errors.As(err, &format):
	case !errors.As(err, &deny) || !errors.Is(err, want):
		t.Errorf("%s: want %s, got %v", what, want, err)
	}
}

// TestReadOfManyKeys reads as many keys in a call as a node accepts, of names as long as
// they may be, of which some are there.
func TestReadOfManyKeys(t *testing.T) {
	t.Parallel()
	c := alone(t, "")
	c.whole(0)
	cl := c.client("")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = fmt.Sprintf("kv/%s/%d", strings.Repeat("k", 1000), i)
	}
	for i := 0; i < len(keys); i += 300 {
		if _, err := cl.Execute(ctx, put(keys[i], bytes.Repeat([]byte{byte(i)}, 512))); err != nil {
			t.Fatal(err)
		}
	}
	r, err := cl.Read(ctx, false, keys...)
	if err != nil || len(r.GetValues()) != len(keys) {
		t.Fatalf("%d values: %v", len(r.GetValues()), err)
	}
	for i, v := range r.GetValues() {
		want := 0
		if i%300 == 0 {
			want = 512
		}
		if v.GetKey() != keys[i] || len(v.GetValue()) != want || (v.GetVersion() > 0) != (want > 0) {
			t.Errorf("key %d: %d bytes of version %d, want %d", i, len(v.GetValue()), v.GetVersion(), want)
		}
	}
}

// TestOnce sends requests again under their request id.
func TestOnce(t *testing.T) {
	t.Parallel()
	c := alone(t, "")
	c.whole(0)
	cl := c.client("")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	tx := put("kv/once", []byte("1"))
	tx.Operations[0].Compare = &apiv1.Compare{Want: &apiv1.Compare_Absent{Absent: true}}
	one, err := cl.Execute(ctx, tx)
	if err != nil || !one.GetApplied() {
		t.Fatalf("%v, %v", one, err)
	}
	two, err := cl.Execute(ctx, tx) // its comparison does not hold any more
	if err != nil || two.GetLeaf() != one.GetLeaf() || !bytes.Equal(two.GetTransactionId(), one.GetTransactionId()) || !two.GetApplied() {
		t.Errorf("sent again: %v, %v; at first %v", two, err, one)
	}
	tx.RequestId = client.NewRequestID()
	three, err := cl.Execute(ctx, tx)
	if err != nil || three.GetApplied() {
		t.Errorf("another request on a key that is taken: %v, %v", three, err)
	}
	text, p, err := cl.Receipt(ctx, one.GetLeaf())
	if err != nil || string(p.ID[:]) != string(one.GetTransactionId()) {
		t.Fatalf("%v, %v", p, err)
	}
	if _, err := receipt.NewVerifier(c.digest).Verify(text); err != nil {
		t.Errorf("offline: %v", err)
	}
	text[len(text)/2] ^= 1
	if _, err := receipt.NewVerifier(c.digest).Verify(text); err == nil {
		t.Error("an altered receipt was accepted")
	}
}

// TestPlainJSON speaks HTTP with JSON, as curl would.
func TestPlainJSON(t *testing.T) {
	t.Parallel()
	c := alone(t, "")
	c.whole(0)
	own, err := client.OpenContact(c.file.Contacts[0])
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig := client.PinnedTLS(own.TLS, nil)
	tlsConfig.NextProtos = []string{"http/1.1"}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}, Timeout: patience}
	post := func(method, body string) (int, string) {
		r, err := h.Post(own.API+"/keystead.v1."+method, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	// A field that the API does not have is refused: here a condition, misspelt, of a write.
	for _, body := range []string{`{"transaction":{"contract":"kv","operations":[{"key":"kv/misspelt","value":"YQ==","comapre":{"absent":true}}]}}`, `{"transaction":{},"frob":1}`} {
		if code, said := post("LedgerService/Execute", body); code != 400 || !strings.Contains(said, "unknown field") {
			t.Errorf("%s: %d %s", body, code, said)
		}
	}
	if code, said := post("LedgerService/Read", `{"keys":["kv/misspelt"]}`); code != 200 || strings.Contains(said, "YQ==") {
		t.Errorf("what was refused is written: %d %s", code, said)
	}
	code, body := post("DomainService/Status", "{}")
	var status struct{ DomainClockMs string }
	if err := json.Unmarshal([]byte(body), &status); err != nil || code != 200 {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	tx := `{"transaction":{"contract":"kv","operations":[{"key":"kv/json","value":"Ymx1ZQ=="}]}}`
	if code, body = post("LedgerService/Execute", tx); code != 200 || !strings.Contains(body, `"applied":true`) {
		t.Errorf("execute: %d %s", code, body)
	}
	if code, body = post("LedgerService/Read", `{"keys":["kv/json"]}`); code != 200 || !strings.Contains(body, `"Ymx1ZQ=="`) {
		t.Errorf("read: %d %s", code, body)
	}
	for _, bad := range []string{``, `{`, `{"transaction":7}`, `{"no":"field"}`, strings.Repeat("[", 100000)} {
		if code, body = post("LedgerService/Execute", bad); code != 400 {
			t.Errorf("%.40q: %d %s", bad, code, body)
		}
	}
	if code, body = post("LedgerService/Execute", `{"transaction":{"contract":"kv","operations":[{"key":"lease/x"}]}}`); code != 403 || !strings.Contains(body, "write-outside-prefix") {
		t.Errorf("outside its prefix: %d %s", code, body)
	}
}

// TestClientKeys lets in only clients whose key is listed.
func TestClientKeys(t *testing.T) {
	t.Parallel()
	id, err := node.NewIdentity(context.Background(), filepath.Join(t.TempDir(), "client"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := alone(t, fmt.Sprintf("clients = [%q]", id.Pin))
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	listed, err := client.Open(c.file, c.digest, client.Options{Certificate: &id.TLS})
	if err != nil {
		t.Fatal(err)
	}
	defer listed.Close()
	if _, err := listed.Put(ctx, "kv/a", nil); err != nil {
		t.Errorf("a listed client: %v", err)
	}
	stranger, err := node.NewIdentity(context.Background(), filepath.Join(t.TempDir(), "stranger"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]*tls.Certificate{"without a key": nil, "with another key": &stranger.TLS} {
		other, err := client.Open(c.file, c.digest, client.Options{Certificate: cert})
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		if _, err := other.Put(short, "kv/a", nil); err == nil {
			t.Errorf("a client %s was let in", name)
		}
		cancel()
		other.Close()
	}
}

// TestOverload sends more than may be under way: some is refused as overloaded, and
// what is not refused happens.
func TestOverload(t *testing.T) {
	t.Parallel()
	c := alone(t, "max-in-flight = 4")
	c.whole(0)
	cl := c.client("")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	var txs []*apiv1.Transaction
	for i := range 256 {
		tx := put(fmt.Sprintf("kv/o/%d", i), []byte("x"))
		if err := cl.Prepare(ctx, tx); err != nil {
			t.Fatal(err)
		}
		txs = append(txs, tx)
	}
	var wg sync.WaitGroup
	wg.Add(len(txs))
	var mu sync.Mutex
	done, refused := 0, 0 // what a slow disk holds up is neither
	p := cl.Pipeline(ctx)
	err := p.Send(txs, func(o *apiv1.Outcome, err error) {
		defer wg.Done()
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			done++
		case errors.Is(err, keystead.ReasonOverloaded):
			refused++
		case !errors.Is(err, keystead.ReasonTimeout):
			t.Errorf("neither done nor overloaded: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if done == 0 || refused == 0 {
		t.Errorf("%d done, %d refused", done, refused)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestCallsAreCounted holds the one place for a request with a stream, and knocks.
func TestCallsAreCounted(t *testing.T) {
	t.Parallel()
	c := alone(t, "max-in-flight = 1")
	c.whole(0)
	own, err := client.OpenContact(c.file.Contacts[0])
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: client.PinnedTLS(own.TLS, nil), ForceAttemptHTTP2: true}, Timeout: patience}
	post := func(method, body string) string {
		r, err := h.Post(own.API+"/keystead.v1."+method, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	calls := map[string]string{
		"LedgerService/Execute":        `{"transaction":{"contract":"kv","operations":[{"key":"kv/a"}]}}`,
		"LedgerService/Read":           `{"keys":["kv/a"]}`,
		"LedgerService/GetCheckpoint":  `{}`,
		"LedgerService/GetReceipts":    `{"leaves":[0]}`,
		"LedgerService/GetConsistency": `{"from":""}`,
		"DomainService/Show":           `{}`,
		"DomainService/Submit":         `{"entry":"AQU="}`,
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	streams, reader := make(chan struct{}), c.client("")
	ended := make(chan error, 1)
	tail, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		first := true
		ended <- reader.Tail(tail, 0, 0, func(*apiv1.Entry) bool {
			if first {
				close(streams)
			}
			first = false
			return true
		})
	}()
	<-streams
	for method, body := range calls {
		if got := post(method, body); !strings.Contains(got, "overloaded") {
			t.Errorf("%s beside a stream, with room for one: %s", method, got)
		}
	}
	if got := post("DomainService/Status", "{}"); !strings.Contains(got, `"node":"n1"`) {
		t.Errorf("status: %s", got)
	}
	stop()
	<-ended
	for strings.Contains(post("LedgerService/Read", `{"keys":["kv/a"]}`), "overloaded") && ctx.Err() == nil {
		continue // until the node has noticed
	}
	for method, body := range calls {
		if got := post(method, body); strings.Contains(got, "overloaded") || ctx.Err() != nil {
			t.Errorf("%s when there is room: %s", method, got)
		}
	}
}

// TestGovernance changes a setting by endorsements, adds a node and removes one.
func TestGovernance(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback)
	c.startAll()
	c.whole(0, 1, 2)
	cl := c.client("")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	proposal := func(m key.Member, value uint64) []byte {
		text, err := (&admit.Setting{Domain: c.digest, Name: admit.LeaseSeconds, Value: value}).Text()
		if err != nil {
			t.Fatal(err)
		}
		note, err := m.Sign(text)
		if err != nil {
			t.Fatal(err)
		}
		p, err := client.Propose(note)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := p.Entry()
		if err != nil {
			t.Fatal(err)
		}
		return entry
	}
	propose := func(m key.Member, value uint64) error {
		_, err := cl.Submit(ctx, proposal(m, value), nil)
		return err
	}
	stranger, err := key.NewMember(strings.NewReader(strings.Repeat("s", 32)), "stranger")
	if err != nil {
		t.Fatal(err)
	}
	demand(t, "a setting signed by a stranger", propose(stranger, 60), keystead.ReasonNoteUnsigned)
	demand(t, "a setting out of bounds", propose(c.member, 1), keystead.ReasonRuleFailed)
	good := proposal(c.member, 60)
	for range 2 { // the second time, as if the first answer had been lost
		out, err := cl.Submit(ctx, good, nil)
		if err != nil {
			t.Fatalf("a good setting: %v", err)
		}
		_, p, err := cl.Receipt(ctx, out.GetLeaf())
		if err != nil || p.Kind != receipt.KindEffective || !bytes.Equal(p.ID[:], out.GetTransactionId()) {
			t.Errorf("the receipt of a setting is of %s %s, not of %x: %v", p.Kind, p.ID, out.GetTransactionId(), err)
		}
	}
	now, err := cl.State(ctx, []string{"setting/lease-seconds"}, nil)
	if err != nil || string(now.GetValues()[0].GetValue()) != "60" {
		t.Errorf("lease-seconds is %v, %v", now, err)
	}
	demand(t, "a setting upon an old version", propose(c.member, 70), keystead.ReasonSubjectChanged)

	contact := c.prepare("n4", "", filepath.Join(c.dir, "n4"))
	opened, err := client.OpenContact(contact)
	if err != nil {
		t.Fatal(err)
	}
	c.changeRoster(ctx, cl, contact, func(r *receipt.Roster) {
		r.Nodes = append(r.Nodes, opened.Node())
	})
	c.enter(c.nodes[3])
	c.start(3)
	c.whole(0, 1, 2, 3)

	lead := c.leader(0)
	gone := c.nodes[lead].place.Name
	c.changeRoster(ctx, cl, nil, func(r *receipt.Roster) {
		for i, n := range r.Nodes {
			if n.Name == gone {
				r.Nodes = append(r.Nodes[:i:i], r.Nodes[i+1:]...)
				return
			}
		}
	})
	var left []int
	for i := range c.nodes {
		if i != lead {
			left = append(left, i)
		}
	}
	c.whole(left...)
	select {
	case <-c.nodes[lead].ended:
		c.nodes[lead].cmd = nil
	case <-time.After(patience):
		t.Errorf("%s was removed and goes on", gone)
	}
	rest := c.client(c.nodes[left[0]].place.Name)
	o, err := rest.Put(ctx, "kv/after", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	text, p, err := rest.Receipt(ctx, o.GetLeaf())
	if err != nil || p.Head.Roster != 2 {
		t.Fatalf("a receipt under roster %d, not 2: %v", p.Head.Roster, err)
	}
	if strings.Contains(string(text), "— "+gone+" ") {
		t.Errorf("%s was removed and still signs", gone)
	}
}

// changeRoster has the member sign a change of the roster, and hands it in.
func (c *cluster) changeRoster(ctx context.Context, cl *client.Client, contact []byte, edit func(*receipt.Roster)) {
	c.t.Helper()
	v, err := cl.Show(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	change := receipt.Change{Domain: v.Domain, Sequence: v.Sequence + 1, After: v.Entry, Roster: v.Roster}
	edit(&change.Roster)
	text, err := change.Text()
	if err != nil {
		c.t.Fatal(err)
	}
	signed, err := c.member.Sign(text)
	if err != nil {
		c.t.Fatal(err)
	}
	entry, err := receipt.NoteEntry(signed)
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = cl.Submit(ctx, append(receipt.Header(receipt.KindRoster), text...), contact)
	demand(c.t, "a roster change that nobody signed", err, keystead.ReasonMalformed)
	first, err := cl.Submit(ctx, entry, contact)
	if err != nil {
		c.t.Fatal(err)
	}
	again, err := cl.Submit(ctx, entry, contact) // as if the first answer had been lost
	if err != nil || again.GetLeaf() != first.GetLeaf() || !bytes.Equal(again.GetTransactionId(), first.GetTransactionId()) {
		c.t.Errorf("the same change again: %v, %v; at first %v", again, err, first)
	}
}
