package node_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
)

// history is a load of puts, reads and compare-and-puts of a few keys by several
// clients, with what each was answered.
type history struct {
	c     *cluster
	began time.Time
	stop  atomic.Bool
	wg    sync.WaitGroup

	mu    sync.Mutex
	ops   []porcupine.Operation
	open  []porcupine.Operation // writes without an answer
	acked map[string]uint64     // request id of each acknowledged write: leaf
	tried map[string]bool
}

type input struct {
	key     string
	write   bool
	value   string
	compare *string // only if the key has this value; "" for none
}

type output struct {
	value   string // of a read
	applied bool   // of a write
	request string // id, if there was no answer: it may have happened, or may yet
}

// register is what each key must behave like.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, op := range history {
			k := op.Input.(input).key
			by[k] = append(by[k], op)
		}
		var out [][]porcupine.Operation
		for _, ops := range by {
			out = append(out, ops)
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		s, i, o := state.(string), in.(input), out.(output)
		matches := i.compare == nil || *i.compare == s
		switch {
		case !i.write:
			return o.value == s, s
		case o.applied:
			return matches, i.value
		}
		return !matches, s
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(in, out any) string {
		return fmt.Sprintf("%+v -> %+v", in, out)
	},
}

// load starts clients clients over keys keys.
func (c *cluster) load(clients, keys int, seed uint64) *history {
	h := &history{c: c, began: time.Now(), acked: map[string]uint64{}, tried: map[string]bool{}}
	for n := range clients {
		h.wg.Add(1)
		cl := c.client("")
		go func() {
			defer h.wg.Done()
			h.client(cl, n, keys, rand.New(rand.NewPCG(seed, uint64(n))))
		}()
	}
	return h
}

func (h *history) client(cl *client.Client, id, keys int, random *rand.Rand) {
	seen := map[string]string{}
	for n := 0; !h.stop.Load(); n++ {
		in := input{key: fmt.Sprintf("kv/r%d", random.IntN(keys))}
		switch random.IntN(3) {
		case 0:
			in.write, in.value = true, fmt.Sprintf("%d.%d", id, n)
		case 1:
			was := seen[in.key]
			in.write, in.value, in.compare = true, fmt.Sprintf("%d.%d", id, n), &was
		}
		called := time.Since(h.began)
		out := h.one(cl, in, seen)
		returned := time.Since(h.began)
		h.mu.Lock()
		op := porcupine.Operation{ClientId: id, Input: in, Call: int64(called), Output: out, Return: int64(returned)}
		switch {
		case out.request == "":
			h.ops = append(h.ops, op)
		case in.write:
			h.open = append(h.open, op)
			id += 1000 // a client of porcupine's does one thing after the other
		}
		h.mu.Unlock()
	}
}

// one does one operation. It gives up early now and then, so that outcomes stay open.
func (h *history) one(cl *client.Client, in input, seen map[string]string) output {
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
	defer cancel()
	if !in.write {
		r, err := cl.Read(ctx, false, in.key)
		if err != nil {
			return output{request: "a read"}
		}
		v := string(r.GetValues()[0].GetValue())
		seen[in.key] = v
		return output{value: v}
	}
	op := &apiv1.Operation{Key: in.key, Value: []byte(in.value)}
	if in.compare != nil {
		op.Compare = &apiv1.Compare{Want: &apiv1.Compare_Value{Value: []byte(*in.compare)}}
		if *in.compare == "" {
			op.Compare = &apiv1.Compare{Want: &apiv1.Compare_Absent{Absent: true}}
		}
	}
	tx := &apiv1.Transaction{RequestId: client.NewRequestID(), Contract: client.KV, Operations: []*apiv1.Operation{op}}
	h.mu.Lock()
	h.tried[string(tx.RequestId)] = true
	h.mu.Unlock()
	o, err := cl.Execute(ctx, tx)
	if err != nil {
		return output{request: string(tx.RequestId)}
	}
	if o.GetApplied() {
		seen[in.key] = in.value
		h.mu.Lock()
		h.acked[string(tx.RequestId)] = o.GetLeaf()
		h.mu.Unlock()
	}
	return output{applied: o.GetApplied()}
}

func (h *history) acknowledged() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.acked)
}

// finish ends the load, once it has done something, and checks it: the history is linearizable, every write
// acknowledged is in the ledger at the leaf that was answered, and none is twice.
func (h *history) finish(t *testing.T) {
	t.Helper()
	for until := time.Now().Add(2 * patience); h.acknowledged() < 100; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Errorf("only %d writes were acknowledged: the load shows nothing", h.acknowledged())
			break
		}
	}
	h.stop.Store(true)
	h.wg.Wait()
	t.Logf("%d operations, %d writes acknowledged of %d tried", len(h.ops), len(h.acked), len(h.tried))
	cl := h.c.client("")
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	if _, err := cl.Audit(ctx, nil); err != nil {
		t.Errorf("audit: %v", err)
	}
	leaves, err := cl.Size(ctx) // all that anyone was told of
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]uint64{}
	err = cl.Tail(ctx, 0, leaves, func(e *apiv1.Entry) bool {
		if tx, err := ledger.ParseTransaction(e.GetEntry()); err == nil {
			id := string(tx.Request.ID[:])
			if first, twice := at[id]; twice {
				t.Errorf("request %x is leaf %d and leaf %d", id, first, e.GetLeaf())
			}
			at[id] = e.GetLeaf()
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, leaf := range h.acked {
		if got, ok := at[id]; !ok || got != leaf {
			t.Errorf("request %x was acknowledged as leaf %d, and is at %d (found: %v)", id, leaf, got, ok)
		}
	}
	if got := porcupine.CheckOperationsTimeout(register, h.resolved(at), 5*time.Minute); got != porcupine.Ok {
		t.Errorf("the history is not linearizable: %v", got)
	}
}

// resolved returns the history with the writes that had no answer: those that the
// ledger has took effect at some time after they were sent, the others did not.
func (h *history) resolved(at map[string]uint64) []porcupine.Operation {
	all, end := slices.Clone(h.ops), int64(time.Since(h.began))
	for _, op := range h.open {
		if _, took := at[op.Output.(output).request]; took {
			op.Output, op.Return = output{applied: true}, end
			all = append(all, op)
		}
	}
	return all
}
