package admit_test

import (
	"fmt"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// A member enrols a machine. A node that judges the proposal opens the note by the
// roster in force.
func Example() {
	ada, err := key.NewMember(strings.NewReader("thirty-two bytes of test randomness"), "ada")
	if err != nil {
		panic(err)
	}
	domain, machine := keystead.Sum([]byte("a genesis entry")), keystead.Sum([]byte("an endorsement key"))
	enrolment := admit.Enrolment{Domain: domain, Host: "web-1", Role: admit.RoleHost, EK: machine}
	text, err := enrolment.Text()
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s", text)
	note, err := ada.Sign(text)
	if err != nil {
		panic(err)
	}

	roster := receipt.Roster{Threshold: 1, Members: []key.MemberPublic{ada.Public()}}
	_, err = admit.OpenEnrolment(note, admit.Case{Domain: domain, Subject: "web-1", Roster: &roster})
	fmt.Println("upon no enrolment:", err)
	_, err = admit.OpenEnrolment(note, admit.Case{Domain: domain, Subject: "web-1", Base: 8, Roster: &roster})
	fmt.Println("once more:", err)
	// Output:
	// keystead-enrolment/1
	// domain keystead/f5b82326a50ae76445847214ad568519b6fb189d4e961b63ab1bd513a6d91019
	// subject web-1
	// base 0
	// role host
	// ek sha256:ff785b5b91c7b8a2b76ebaee24fac603e01ee01e1c411744247a7ea112a6a5f2
	// upon no enrolment: <nil>
	// once more: denied: subject-changed: statement on web-1: want a statement upon version 8, got 0
}
