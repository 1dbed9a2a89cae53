//go:build wasip1

// Auction is an open auction: who bids highest until it closes has it. Whoever opens a lot
// sells it; bids are by callers whom the domain knows, and each must be above the one before.
package main

import (
	"time"

	"github.com/keystead/keystead/guest"
)

// A lot is what is sold.
type lot struct {
	Seller string    `json:"seller"`
	Closes time.Time `json:"closes"`
	Least  uint64    `json:"least"`
	Bid    uint64    `json:"bid,omitempty"`
	Bidder string    `json:"bidder,omitempty"`
	Closed bool      `json:"closed,omitempty"`
}

type question struct {
	Lot    string    `json:"lot"`
	Least  uint64    `json:"least,omitempty"`
	Closes time.Time `json:"closes,omitzero"`
	Amount uint64    `json:"amount,omitempty"`
}

func key(name string) string { return "lot/" + name }

func ask() (q question, l lot, there bool) {
	guest.Read(&q)
	if q.Lot == "" || len(q.Lot) > 64 {
		guest.Refuse("a lot has a name of 1 to 64 bytes")
	}
	there = guest.Load(key(q.Lot), &l)
	return q, l, there
}

func answer(name string, l lot) {
	guest.Store(key(name), l)
	guest.Emit(key(name), []byte(l.Bidder))
	guest.Answer(l)
}

//go:wasmexport open
func open() {
	q, _, there := ask()
	if there {
		guest.Refuse("lot %s is there already", q.Lot)
	}
	if !q.Closes.After(guest.Now()) {
		guest.Refuse("lot %s would close at %v, which is over", q.Lot, q.Closes)
	}
	answer(q.Lot, lot{Seller: guest.Who().String(), Closes: q.Closes, Least: q.Least})
}

//go:wasmexport bid
func bid() {
	q, l, there := ask()
	who := guest.Who().String()
	switch {
	case !there:
		guest.Refuse("there is no lot %s", q.Lot)
	case l.Closed || !guest.Now().Before(l.Closes):
		guest.Refuse("lot %s closed at %v", q.Lot, l.Closes)
	case who == l.Seller:
		guest.Refuse("who sells a lot does not bid for it")
	case q.Amount < l.Least || q.Amount <= l.Bid:
		guest.Refuse("%d is not above %d, or below %d", q.Amount, l.Bid, l.Least)
	}
	l.Bid, l.Bidder = q.Amount, who
	answer(q.Lot, l)
}

//go:wasmexport close_lot
func closeLot() {
	q, l, there := ask()
	switch {
	case !there:
		guest.Refuse("there is no lot %s", q.Lot)
	case guest.Now().Before(l.Closes):
		guest.Refuse("lot %s closes at %v", q.Lot, l.Closes)
	case l.Closed:
		guest.Refuse("lot %s is closed", q.Lot)
	}
	l.Closed = true
	answer(q.Lot, l)
}

//go:wasmexport lots
func lots() {
	all := map[string]lot{}
	for _, p := range guest.Scan("lot/", "lot0", 100) {
		var l lot
		guest.Load(p.Key, &l)
		all[p.Key[len("lot/"):]] = l
	}
	guest.Answer(all)
}

func main() {}
