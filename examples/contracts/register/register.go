//go:build wasip1

// Register is a register of assets: who enters one owns it, and gives it to whom he likes.
package main

import "github.com/keystead/keystead/guest"

type asset struct {
	Name  string `json:"name"`
	Owner string `json:"owner"`
}

type question struct {
	Name string `json:"name"`
	To   string `json:"to,omitempty"`
}

func ask() (q question, owner string) {
	guest.Read(&q)
	if q.Name == "" || len(q.Name) > 64 {
		guest.Refuse("an asset has a name of 1 to 64 bytes")
	}
	b, _ := guest.Get(q.Name)
	return q, string(b)
}

func enterAs(name, owner string) {
	guest.Put(name, []byte(owner))
	guest.Emit(name, []byte(owner))
	guest.Answer(asset{name, owner})
}

//go:wasmexport enter
func enter() {
	q, owner := ask()
	if owner != "" {
		guest.Refuse("%s is %s's", q.Name, owner)
	}
	enterAs(q.Name, guest.Who().String())
}

//go:wasmexport give
func give() {
	q, owner := ask()
	switch who := guest.Who().String(); {
	case owner == "":
		guest.Refuse("there is no %s", q.Name)
	case owner != who:
		guest.Refuse("%s is %s's, and not %s's", q.Name, owner, who)
	case q.To == "":
		guest.Refuse("to whom?")
	}
	enterAs(q.Name, q.To)
}

//go:wasmexport show
func show() {
	q, owner := ask()
	if owner == "" {
		guest.Refuse("there is no %s", q.Name)
	}
	guest.Answer(asset{q.Name, owner})
}

func main() {}
