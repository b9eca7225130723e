"""The student: trained on step-wise examples with ZeRO under Ray Train."""
