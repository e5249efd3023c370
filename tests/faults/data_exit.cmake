# The program's own end on a damaged token file: exit 3, naming file and offset.
pg_expect(faults.data_token_past_vocabulary COMMAND pentagrid inspect
  ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/token_file/refused-past-vocabulary STATUS 3
  STDERR refused-past-vocabulary "token 2 (byte" "is 1000, outside the vocabulary of 1000")
pg_expect(faults.data_truncated COMMAND pentagrid inspect
  ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/token_file/refused-truncated STATUS 3
  STDERR refused-truncated "of which")
