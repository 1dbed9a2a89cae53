//go:build !race

package node_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	contractv1 "github.com/keystead/keystead/api/contract/v1"
	"github.com/keystead/keystead/api/contract/v1/contractv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/contract"
)

// auction is a domain whose members took the auction in.
type auction struct {
	*field
	users map[string]key.Member
}

const auctionPolicy = `keystead-policy/1
name auction
rule known
  require caller.kind != "anyone" || method == "lots"
  otherwise sign the call
rule bidders
  require method != "bid" || "bidder" in caller.roles
  otherwise ask members for the role bidder
`

// deploy has the members take a contract in.
func (f *field) deploy(name string, wasm []byte, gas int64, policy string) error {
	f.t.Helper()
	d := keystead.Sum(wasm)
	if f.version(admit.TypeObject, d.String()) == 0 {
		if err := f.bring(admit.ObjectContract, wasm); err != nil {
			return err
		}
	}
	s := contract.Spec{Domain: f.digest, Name: name, Base: f.version(contract.Type, name), Code: d, Bounds: contract.Bounds{Gas: gas, Pages: 256}, Policy: []byte(policy)}
	text, err := s.Text()
	if err != nil {
		f.t.Fatal(err)
	}
	return f.decree(contract.Type, name, text)
}

// user has the members let somebody call.
func (a *auction) user(name string, roles ...string) {
	a.t.Helper()
	m, err := key.NewMember(rand.Reader, name)
	if err != nil {
		a.t.Fatal(err)
	}
	u := contract.User{Domain: a.digest, Name: name, Key: m.Public(), Roles: roles}
	text, err := u.Text()
	if err != nil {
		a.t.Fatal(err)
	}
	if err := a.decree(contract.UserType, name, text); err != nil {
		a.t.Fatal(err)
	}
	a.users[name] = m
}

// wasm compiles an example contract.
func wasm(t *testing.T, name string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "contract.wasm")
	c := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s", "-o", out, "../examples/contracts/"+name)
	c.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if said, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ask is a call by a user; nobody for "".
func (a *auction) ask(cl *client.Client, by, name, method, input string) *contractv1.CallRequest {
	a.t.Helper()
	s, err := cl.Status(a.ctx)
	if err != nil {
		a.t.Fatal(err)
	}
	q := contract.Question{Domain: a.digest, Request: [16]byte(client.NewRequestID()), Deadline: s.GetDomainClockMs() + ledger.Window/2, Contract: name, Method: method, Input: []byte(input)}
	r := &contractv1.CallRequest{RequestId: q.Request[:], DeadlineMs: q.Deadline, Contract: name, Method: method, Input: q.Input}
	if by != "" {
		if r.Signature, err = q.Sign(a.users[by]); err != nil {
			a.t.Fatal(err)
		}
	}
	return r
}

func send(ctx context.Context, cl *client.Client, r *contractv1.CallRequest) (*contractv1.CallResponse, error) {
	out := &contractv1.CallResponse{}
	return out, cl.Call(ctx, contractv1connect.ContractServiceCallProcedure, r, out)
}

// TestContracts has users bid on three nodes at the same time, and
// tries all that must be refused. What was acknowledged is there, once, and proven. It
// runs without the race detector, under which compiling the contract takes minutes.
func TestContracts(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	a := &auction{f, map[string]key.Member{}}
	code := wasm(t, "auction")
	if err := f.deploy("auction", code, 50_000_000, auctionPolicy); err != nil {
		t.Fatal(err)
	}
	a.user("alice", "bidder")
	a.user("ben", "bidder")
	a.user("seller")
	stranger, err := key.NewMember(rand.Reader, "eve")
	if err != nil {
		t.Fatal(err)
	}
	a.users["eve"] = stranger
	namesake, err := key.NewMember(rand.Reader, "alice")
	if err != nil {
		t.Fatal(err)
	}
	cl := f.client("")
	call := func(by, method, input string) (*contractv1.CallResponse, error) {
		return send(f.ctx, cl, a.ask(cl, by, "auction", method, input))
	}
	open := fmt.Sprintf(`{"lot":"clock","least":1,"closes":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	r, err := call("seller", "open", open)
	if err != nil || r.GetLeaf() == 0 {
		t.Fatalf("opening a lot: %v, %v", r, err)
	}
	if _, proven, err := cl.Receipt(f.ctx, r.GetLeaf()); err != nil || len(proven.Entry) == 0 {
		t.Errorf("the call's receipt: %v", err)
	}

	for what, x := range map[string]struct {
		by, name, method, input string
		want                    keystead.Reason
	}{
		"a stranger":                  {"eve", "auction", "bid", `{"lot":"clock","amount":1}`, keystead.ReasonCallerUnknown},
		"nobody":                      {"", "auction", "bid", `{"lot":"clock","amount":1}`, keystead.ReasonCallerDenied},
		"a user without the role":     {"seller", "auction", "bid", `{"lot":"clock","amount":1}`, keystead.ReasonCallerDenied},
		"a contract of nobody":        {"alice", "lottery", "bid", "", keystead.ReasonContractUnknown},
		"a method of nobody":          {"alice", "auction", "cheat", "", keystead.ReasonContractUnknown},
		"what the contract refuses":   {"alice", "auction", "bid", `{"lot":"watch","amount":1}`, keystead.ReasonContractRefused},
		"the contract that nodes are": {"alice", "kv", "bid", "", keystead.ReasonContractUnknown},
	} {
		_, err := send(f.ctx, cl, a.ask(cl, x.by, x.name, x.method, x.input))
		demand(t, what, err, x.want)
	}
	q := a.ask(cl, "alice", "auction", "bid", `{"lot":"clock","amount":1}`)
	q.Input = []byte(`{"lot":"clock","amount":1000}`)
	_, err = send(f.ctx, cl, q)
	demand(t, "an input changed after signing", err, keystead.ReasonCallerUnknown)
	real := a.users["alice"]
	a.users["alice"] = namesake
	_, err = call("alice", "bid", `{"lot":"clock","amount":1}`)
	demand(t, "another key under the name", err, keystead.ReasonCallerUnknown)
	a.users["alice"] = real

	once := a.ask(cl, "alice", "auction", "bid", `{"lot":"clock","amount":5}`)
	first, err := send(f.ctx, cl, once)
	if err != nil {
		t.Fatal(err)
	}
	again, err := send(f.ctx, f.client("n2"), once)
	if err != nil || !again.GetRepeated() || again.GetLeaf() != first.GetLeaf() || string(again.GetOutput()) != string(first.GetOutput()) {
		t.Errorf("the same call again, on another node: %v, %v; first %v", again, err, first)
	}

	a.race(first)
	demand(t, "a contract whose code is none", f.deploy("bad", []byte("\x00asm\x01\x00\x00\x00"), 1, auctionPolicy), keystead.ReasonContractUnfit)
	if err := f.deploy("auction", code, 1000, auctionPolicy); err != nil { // less gas than any call takes
		t.Fatal(err)
	}
	_, err = call("ben", "bid", `{"lot":"clock","amount":1000}`)
	demand(t, "a call beyond the gas that members gave", err, keystead.ReasonGasExhausted)
}

// race has bidders bid on all nodes at the same time: each bid that was acknowledged is on the
// ledger, in an order in which each is above the one before.
func (a *auction) race(first *contractv1.CallResponse) {
	t, f := a.t, a.field
	t.Helper()
	var mu sync.Mutex
	var leaves []uint64
	var all sync.WaitGroup
	for i, who := range []string{"alice", "ben", "alice"} {
		cl := f.client(fmt.Sprintf("n%d", i+1))
		all.Go(func() {
			for n := range 8 {
				r, err := send(f.ctx, cl, a.ask(cl, who, "auction", "bid", fmt.Sprintf(`{"lot":"clock","amount":%d}`, 10+3*n+i)))
				if err != nil {
					if keystead.ReasonContractRefused != reasonOf(err) {
						t.Errorf("a bid: %v", err)
					}
					continue
				}
				mu.Lock()
				leaves = append(leaves, r.GetLeaf())
				mu.Unlock()
			}
		})
	}
	all.Wait()
	cl := f.client("")
	bids := map[uint64]uint64{}
	for _, leaf := range append(leaves, first.GetLeaf()) {
		_, proven, err := cl.Receipt(f.ctx, leaf)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ledger.ParseCall(proven.Entry)
		if err != nil {
			t.Fatal(err)
		}
		var lot struct{ Bid uint64 }
		if err := json.Unmarshal(c.Output, &lot); err != nil {
			t.Fatal(err)
		}
		if _, twice := bids[leaf]; twice {
			t.Errorf("two bids were acknowledged with leaf %d", leaf)
		}
		bids[leaf] = lot.Bid
	}
	for leaf, bid := range bids {
		for other, more := range bids {
			if leaf < other && bid >= more {
				t.Errorf("leaf %d has a bid of %d, and leaf %d one of %d", leaf, bid, other, more)
			}
		}
	}
	if len(leaves) < 3 {
		t.Errorf("%d bids were taken", len(leaves))
	}
	var out contractv1.QueryResponse
	err := cl.Call(f.ctx, contractv1connect.ContractServiceQueryProcedure, &contractv1.QueryRequest{Call: &contractv1.CallRequest{Contract: "auction", Method: "lots"}}, &out)
	var lots map[string]struct{ Bid uint64 }
	if err == nil {
		err = json.Unmarshal(out.GetOutput(), &lots)
	}
	most := uint64(0)
	for _, bid := range bids {
		most = max(most, bid)
	}
	if err != nil || lots["clock"].Bid != most {
		t.Errorf("the lot stands at %v, the greatest bid was %d: %v", lots, most, err)
	}
}

// reasonOf is that of a refusal, or "".
func reasonOf(err error) keystead.Reason {
	var d *keystead.DenyError
	if errors.As(err, &d) && len(d.Findings) > 0 {
		return d.Findings[0].Reason
	}
	return ""
}
