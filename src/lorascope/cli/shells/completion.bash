# Completion of lorascope in bash.      lorascope completion bash --install
_lorascope() {
    local line=${COMP_LINE:0:COMP_POINT} word begun=""
    local whole=${line##*[[:space:]]}
    # bash completes what stands behind a = or a : alone
    case $COMP_WORDBREAKS in *=*) begun=${whole%"${whole##*[=:]}"} ;; esac
    COMPREPLY=()
    while IFS= read -r word; do
        [ -n "$word" ] && COMPREPLY+=("${word#"$begun"}")
    done < <("${COMP_WORDS[0]}" complete "$line" 2>/dev/null)
    case ${COMPREPLY[0]-} in
        *[=.]) [ ${#COMPREPLY[@]} -eq 1 ] && compopt -o nospace 2>/dev/null ;;
    esac
    return 0
}
complete -o default -F _lorascope lorascope
