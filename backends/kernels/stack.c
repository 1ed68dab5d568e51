/* What a compiler calls on Windows before it takes more than a page of stack: every page is touched in turn, so that the page
   behind the last one grows the stack. The bytes are in %rax; no register changes. Elsewhere this is empty. */
#if defined(_WIN32) && defined(__x86_64__)
__asm__(".globl ___chkstk_ms\n"
        "___chkstk_ms:\n"
        "  push %rcx\n"
        "  push %rax\n"
        "  lea 24(%rsp), %rcx\n"
        "1:\n"
        "  cmp $4096, %rax\n"
        "  jb 2f\n"
        "  sub $4096, %rcx\n"
        "  orq $0, (%rcx)\n"
        "  sub $4096, %rax\n"
        "  jmp 1b\n"
        "2:\n"
        "  sub %rax, %rcx\n"
        "  orq $0, (%rcx)\n"
        "  pop %rax\n"
        "  pop %rcx\n"
        "  ret\n");
#endif
