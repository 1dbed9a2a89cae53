package contract_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger/contract"
)

// built are the example contracts, each compiled once for all tests.
var built = struct {
	sync.Mutex
	by map[string][]byte
}{by: map[string][]byte{}}

// example compiles an example contract as its author does.
func example(t testing.TB, name string) []byte {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.by[name] == nil {
		out := filepath.Join(t.TempDir(), "contract.wasm")
		c := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s", "-o", out, "./"+filepath.Join("../../examples/contracts", name))
		c.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false")
		if said, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		built.by[name] = b
	}
	return built.by[name]
}

func engine(t testing.TB) *contract.Engine {
	t.Helper()
	e, err := contract.NewEngine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

var bounds = contract.Bounds{Gas: 100_000_000, Pages: 256}

func load(t testing.TB, wasm []byte) *contract.Code {
	t.Helper()
	c, err := engine(t).Load(t.Context(), wasm, bounds)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// state is one in memory, in order.
type state map[string][]byte

func (s state) Get(key []byte) ([]byte, bool, error) { v, ok := s[string(key)]; return v, ok, nil }

func (s state) Scan(from, to []byte, each func(key, value []byte) bool) error {
	var keys []string
	for k := range s {
		if k >= string(from) && (len(to) == 0 || k < string(to)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !each([]byte(k), s[k]) {
			return nil
		}
	}
	return nil
}

// take puts a call's writes into the state.
func (s state) take(r contract.Result) {
	for _, w := range r.Writes {
		if w.Delete {
			delete(s, string(w.Key))
		} else {
			s[string(w.Key)] = w.Value
		}
	}
}

const noon = 1_800_000_000_000 // 2027-01-15T08:00:00Z, in milliseconds

func by(name string) contract.Caller { return contract.Caller{Kind: "user", Name: name} }

func demand(t testing.TB, what string, err error, want keystead.Reason) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: want %s, got %v", what, want, err)
	}
}

// TestAuction sells a lot, and tries what must be refused.
func TestAuction(t *testing.T) {
	c, st := load(t, example(t, "auction")), state{}
	if got := strings.Join(c.Methods(), " "); got != "bid close_lot lots open" {
		t.Errorf("the methods are %q", got)
	}
	call := func(who, method, input string, clock uint64) (contract.Result, error) {
		r, err := c.Call(t.Context(), &contract.Call{Method: method, Input: []byte(input), Caller: by(who), Clock: clock}, st)
		if err == nil {
			st.take(r)
		}
		return r, err
	}
	accept := func(who, method, input string, clock uint64) contract.Result {
		t.Helper()
		r, err := call(who, method, input, clock)
		if err != nil {
			t.Fatalf("%s by %s: %v", method, who, err)
		}
		return r
	}
	refuse := func(who, method, input string, clock uint64, why string) {
		t.Helper()
		before := len(st)
		r, err := call(who, method, input, clock)
		if demand(t, method+" by "+who, err, keystead.ReasonContractRefused); err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("%s by %s: %v, want %q", method, who, err, why)
		}
		if len(r.Writes)+len(r.Events)+len(r.Output) > 0 || len(st) != before {
			t.Errorf("%s by %s is refused, and leaves %+v", method, who, r)
		}
	}
	r := accept("ada", "open", `{"lot":"clock","least":10,"closes":"2027-01-15T08:01:00Z"}`, noon)
	if len(r.Writes) != 1 || string(r.Writes[0].Key) != "lot/clock" || len(r.Events) != 1 || r.Gas < 1 {
		t.Errorf("opening gives %+v", r)
	}
	refuse("ada", "open", `{"lot":"clock","closes":"2027-01-15T08:01:00Z"}`, noon, "is there already")
	refuse("ben", "open", `{"lot":"late","closes":"2027-01-15T08:00:00Z"}`, noon, "which is over")
	refuse("ben", "bid", `{"lot":"clock","amount":9}`, noon, "below 10")
	refuse("ada", "bid", `{"lot":"clock","amount":11}`, noon, "does not bid")
	refuse("ben", "bid", `{"lot":"watch","amount":11}`, noon, "no lot watch")
	refuse("ben", "bid", `{"lot":"clock","amount":11,"at":1}`, noon, "unknown field")
	refuse("ben", "bid", `{`, noon, "the input")
	accept("ben", "bid", `{"lot":"clock","amount":10}`, noon)
	refuse("cleo", "bid", `{"lot":"clock","amount":10}`, noon+1000, "not above 10")
	accept("cleo", "bid", `{"lot":"clock","amount":11}`, noon+1000)
	refuse("ben", "close_lot", `{"lot":"clock"}`, noon+59_999, "closes at")
	refuse("ben", "bid", `{"lot":"clock","amount":12}`, noon+60_000, "closed at")
	accept("ben", "close_lot", `{"lot":"clock"}`, noon+60_000)
	refuse("ben", "close_lot", `{"lot":"clock"}`, noon+60_000, "is closed")
	var lots map[string]struct{ Bidder string }
	if err := json.Unmarshal(accept("dan", "lots", "", noon).Output, &lots); err != nil || lots["clock"].Bidder != "user:cleo" {
		t.Errorf("the lots are %v: %v", lots, err)
	}
	_, err := call("ben", "main", "", noon)
	demand(t, "a method that there is not", err, keystead.ReasonContractUnknown)
	_, err = call("ben", "_initialize", "", noon)
	demand(t, "starting again", err, keystead.ReasonContractUnknown)
}

// TestSameAgain executes calls in other instances, engines and orders: the same call on the same
// state is the same result, gas included.
func TestSameAgain(t *testing.T) {
	wasm := example(t, "register")
	first, second := load(t, wasm), load(t, wasm)
	st := state{}
	for i, who := range []string{"ada", "ben", "ada", "cleo"} {
		call := &contract.Call{Method: "enter", Input: []byte(`{"name":"` + strings.Repeat("x", i+1) + `"}`), Caller: by(who), Clock: noon + uint64(i)}
		var all []contract.Result
		for _, c := range []*contract.Code{first, first, second, first} {
			r, err := c.Call(t.Context(), call, st)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, r)
		}
		for _, r := range all[1:] {
			if r.Gas != all[0].Gas || !bytes.Equal(r.Output, all[0].Output) || !bytes.Equal(r.Writes[0].Value, all[0].Writes[0].Value) {
				t.Errorf("call %d: %+v and then %+v", i, all[0], r)
			}
		}
		st.take(all[0])
	}
}

// TestCallsAtOnce runs calls of one contract beside each other.
func TestCallsAtOnce(t *testing.T) {
	c := load(t, example(t, "register"))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 20 {
				name := strings.Repeat("y", i+1)
				r, err := c.Call(t.Context(), &contract.Call{Method: "enter", Input: []byte(`{"name":"` + name + `"}`), Caller: by("ada"), Clock: noon}, state{})
				if err != nil || len(r.Writes) != 1 || string(r.Writes[0].Key) != name {
					t.Errorf("%+v: %v", r, err)
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkCall(b *testing.B) {
	c := load(b, example(b, "register"))
	call := &contract.Call{Method: "enter", Input: []byte(`{"name":"x"}`), Caller: by("ada"), Clock: noon}
	for b.Loop() {
		if _, err := c.Call(b.Context(), call, state{}); err != nil {
			b.Fatal(err)
		}
	}
}
